"""Forward passes of whole models, one file per shape of frame: what transformers' FooForCausalLM.forward does.

`PROGRAMS` names the file for each model_type; a type without one is refused. Each file holds `causal_lm`, the forward
pass, and `buffers`, what lies on the device beside the parameters; where a forward pass leaves more there,
`leave_behind` makes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.blocks.base import descend
from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN, Kernel
from oomph.programs.frames import FRAMES

if TYPE_CHECKING:
    from oomph.model import Model

OWN_FILES = (
    "albert", "baichuan", "bamba", "bart", "bert", "bloom", "chatglm", "deberta", "distilbert", "electra", "falcon",
    "falcon_h1", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "internlm2", "jamba", "lfm2", "lfm3", "litgpt",
    "mamba", "minimax", "modernbert", "mpnet", "mpt", "nemotron_h", "olmo_hybrid", "opt", "paligemma", "phi", "qwen",
    "qwen3_next", "roberta", "t5", "unsloth", "whisper", "zamba2",
)  # fmt: skip
PROGRAMS: dict[str, str] = {
    **dict.fromkeys(FRAMES, "llama"),
    **{name: name for name in OWN_FILES},
    "deberta-v2": "deberta",
    "ernie": "bert",
    "falcon_mamba": "mamba",
    "gemma3": "gemma3",
    **dict.fromkeys(("gemma3n", "gemma3n_text"), "gemma3n"),
    **dict.fromkeys(("gemma4", "gemma4_text"), "gemma4"),
    "granitemoehybrid": "bamba",
    "internvl": "internvl",
    "llama4": "llama4",
    "lfm2_moe": "lfm2",
    **dict.fromkeys(("llava", "mistral3"), "llava"),
    **dict.fromkeys(("llava_next", "llava_onevision"), "llava_next"),
    **dict.fromkeys(("m2m_100", "marian", "mbart", "pegasus"), "bart"),
    "mllama": "mllama",
    **dict.fromkeys(("idefics3", "smolvlm"), "idefics3"),
    "mamba2": "mamba",
    "mt5": "t5",
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), "qwen3_5"),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text"), "qwen3_next"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), "qwen_vl"),
    **dict.fromkeys(("camembert", "xlm-roberta"), "roberta"),
}
SEEING = frozenset(
    {
        "gemma3", "idefics3", "internvl", "llama4", "llava", "llava_next", "llava_onevision", "mistral3", "mllama",
        "paligemma", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "smolvlm",
    }
)  # fmt: skip  # types that are played with images
# Types whose class hands on to the packages flash-attn 2 and 3, as programs play it; and types whose class knows none.
NO_FLASH_ATTN = ("gpt_oss", "llama4_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text")  # of the frames
FLASH_ATTN_TYPES = (frozenset(FRAMES) - {*NO_FLASH_ATTN}) | {
    "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi",
    "bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta",
    "bamba", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "lfm3", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next",
}  # fmt: skip
WITHOUT_POSITIONS = (
    "distilbert",
    "gpt_bigcode",
    "gpt_neo",
    "gptj",
    "granitemoehybrid",
    "modernbert",
)  # whose layers are not told them
WITHOUT_FLASH_ATTN = frozenset(
    {"bloom", "deberta", "deberta-v2", "falcon_mamba", "llama4_text", "mamba", "mamba2", "mpnet", "mpt", "mt5", "t5"}
)
# Types of which AutoModelForCausalLM loads the decoder alone (transformers 5.23, models/auto/modeling_auto.py).
WITH_A_TOWER = ("llama4", "mllama", "qwen3_5", "qwen3_5_moe")
OWN_ATTENTION = ("deberta-v2", "mpnet")  # types whose class knows no kernel
# Types whose program has the layers of the language model inside too.
OWN_DECODERS = ("gemma3n", "gemma4", "mllama", "qwen3_5", "qwen3_5_moe")
HEADS = (  # paths of language heads
    "lm_head", "embed_out", "output", "output_projection", "transformer.output_layer", "language_model.lm_head",
)  # fmt: skip


def program_of(model: Model) -> Any:
    """Return the program file of a model's type; refused with a way to go on where there is none."""
    headed = any(head in model.parts for head in HEADS) or model.objective != "causal-lm"
    missing = [] if headed else ["a model without a language head"]
    if model.model_type not in PROGRAMS:
        missing = [model.model_type or "this architecture"]
    if model.text_type and model.text_type not in FRAMES and model.model_type not in OWN_DECODERS:
        missing.append(f"{model.text_type} inside it")
    if missing := [*missing, *model.unplayed]:
        raise UnsupportedError(
            f"oomph cannot play {' and '.join(missing)} yet.", "Trace the real code instead: oomph trace."
        )
    return import_module(f"oomph.programs.{PROGRAMS[model.model_type]}")


# By the kind of a block: what computes it in one kernel where it is installed. What is played is torch's own code.
PACKAGES = {
    "linear_attention": "flash-linear-attention and causal-conv1d",
    "mamba": "mamba-ssm and causal-conv1d",
    "short_conv": "causal-conv1d",
}
PLAIN = ("minimax",)  # types whose mixers are plain torch whether or not there is a package


def kernel_of(model: Model, job: TrainJob | InferJob) -> Kernel:
    """Return the attention kernel that is played: the job's, or torch's flash attention for a package's where oomph
    does not know how the class calls it and the batch is plain, so that both save the same but for some bytes.
    """
    if job.attention not in FLASH_ATTN or calls_flash_attn(model, job):
        return job.attention
    if model.model_type in WITHOUT_FLASH_ATTN:
        raise UnsupportedError(
            f"transformers' class of {model.model_type} knows no flash-attn.", "Say --attention flash or eager."
        )
    packed = isinstance(job, TrainJob) and job.packing
    if job.padding or packed or model.model_type == "gpt_oss":
        raise UnsupportedError(
            f"oomph cannot play {job.attention} in {model.model_type} yet.", "Say --attention flash or eager."
        )
    return "flash"


def calls_flash_attn(model: Model, job: TrainJob | InferJob) -> bool:
    """Tell whether a class and what is put around it call the packages flash-attn as programs play it."""
    if model.model_type not in FLASH_ATTN_TYPES or job.images:
        return False
    return not isinstance(job, TrainJob) or (job.kernels != "unsloth" and not job.compile)


def flash_note(model: Model, job: TrainJob | InferJob) -> tuple[str, ...]:
    """Say so where torch's flash attention is played for a package's, and where packed rows are not told apart."""
    if job.attention not in FLASH_ATTN:
        return ()
    if not calls_flash_attn(model, job):
        return (
            f"oomph does not know how this job's {model.model_type} calls {job.attention}: torch's own flash attention"
            " is played, which saves the same but for some bytes.",
        )
    if not isinstance(job, TrainJob) or not job.packing:
        return ()
    if model.model_type in WITHOUT_POSITIONS:
        return (f"{model.model_type} tells {job.attention} no positions: packed sequences see those before them.",)
    if job.batch > 1:
        return (
            f"transformers tells packed sequences apart for {job.attention} in batches of one row alone: here they see"
            " those before them. Trainers that pack lay all rows behind each other: --batch 1 --seq"
            f" {job.batch * job.seq_len}.",
        )
    return ()


def kernel_note(model: Model, kernel: str) -> tuple[str, ...]:
    """Say so where a model's class does not use the attention kernel that a job asks for, or could use a package's, and
    which class it is where there are two.
    """
    frame = FRAMES.get(model.decoder_type)
    blocks = [] if model.model_type in PLAIN else descend(model.parts)
    packages = dict.fromkeys(PACKAGES[block.kind] for block in blocks if block.kind in PACKAGES)
    found = [
        f"transformers without the packages {names} is played: its mixers in plain torch, which takes more."
        for names in packages
    ]
    if model.model_type in WITH_A_TOWER:
        found.append("The whole model is played, with its tower; AutoModelForCausalLM loads the decoder alone.")
    if kernel != "eager" and model.model_type in OWN_ATTENTION:
        found.append(f"transformers runs {model.model_type} with an attention of its own, not {kernel}.")
    if kernel not in ("eager", *FLASH_ATTN) and frame is not None and not frame.sdpa:
        why = "sdpa cannot bound scores by a tanh"
        found.append(f"transformers runs {model.model_type} with its eager attention kernel, not {kernel}: {why}.")
    return tuple(found)
