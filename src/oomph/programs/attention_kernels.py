"""Which attention kernel the class of a model runs where a job asks for one, and what is said of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.blocks.base import descend
from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN, Kernel
from oomph.programs.frames import FRAMES

if TYPE_CHECKING:
    from oomph.model import Model

# Types whose class hands on to the packages flash-attn 2 and 3, as programs play it; and types whose class knows none.
NO_FLASH_ATTN = (  # of the frames
    "llama4_text", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "glm4v_text", "glm4v_moe_text",
    "qwen2_5_omni_text", "qwen3_omni_moe_text",
)  # fmt: skip
FLASH_ATTN_TYPES = (frozenset(FRAMES) - {*NO_FLASH_ATTN}) | {
    "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi",
    "bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta",
    "bamba", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "lfm3", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next",
    "bart", "m2m_100", "marian", "mbart", "pegasus", "whisper",
}  # fmt: skip
# Types whose layers are told no positions.
WITHOUT_POSITIONS = ("distilbert", "gpt_bigcode", "gpt_neo", "gptj", "granitemoehybrid", "modernbert")
# Types whose layers are told no cu_seq_lens.
WITHOUT_LENGTHS = ("falcon", "gpt_neo", "gptj", "nemotron", "stablelm")
KEEP_TO_THEMSELVES = ("jamba", "lfm3")  # types whose mixers are told neither cu_seq_lens nor seq_idx
WITHOUT_FLASH_ATTN = frozenset(
    {
        "bloom",
        "deepseek_v32",
        "glm_moe_dsa",
        "deberta",
        "deberta-v2",
        "falcon_mamba",
        "llama4_text",
        "mamba",
        "mamba2",
        "mpnet",
        "mpt",
        "mt5",
        "t5",
    }
)
# Types with sinks, in which transformers takes vLLM's flash-attn 3 for either package.
WITH_SINKS = ("gpt_oss",)
# Types of which AutoModelForCausalLM loads the decoder alone (transformers 5.23, models/auto/modeling_auto.py).
WITH_A_TOWER = ("llama4", "mllama", "qwen3_5", "qwen3_5_moe")
OWN_ATTENTION = ("deberta-v2", "mpnet")  # types whose class knows no kernel
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
    if model.model_type in WITH_SINKS and job.attention in FLASH_ATTN and calls_flash_attn(model, job):
        if job.precision in ("fp16", "amp-fp16"):
            raise UnsupportedError("vLLM's flash-attn 3 takes sinks in bf16 alone.", "Take precision bf16 or amp-bf16.")
        return "flash_attention_3"
    if job.attention not in FLASH_ATTN or calls_flash_attn(model, job):
        return job.attention
    if model.model_type in WITHOUT_FLASH_ATTN:
        raise UnsupportedError(
            f"transformers' class of {model.model_type} knows no flash-attn.", "Say --attention flash or eager."
        )
    packed = isinstance(job, TrainJob) and job.packs
    if job.padding or packed or model.model_type in WITH_SINKS:
        raise UnsupportedError(
            f"oomph cannot play {job.attention} in {model.model_type} yet.", "Say --attention flash or eager."
        )
    return "flash"


def check_packed(model: Model, job: TrainJob) -> None:
    """Refuse ways to tell packed sequences apart that a class refuses too, or that were not held against it."""
    if not job.packs:
        return
    if job.packed_by == "mask" and model.model_type not in FRAMES:
        raise UnsupportedError(
            f"oomph does not play a collator's own mask in {model.model_type} yet.", "Leave --packed-by out."
        )
    if job.packed_by != "lengths" or model.model_type in KEEP_TO_THEMSELVES:
        return
    mixers = [PACKAGES[each.kind] for each in descend(model.parts) if each.kind in PACKAGES]
    if mixers:
        raise UnsupportedError(
            f"transformers takes cu_seq_lens in {model.model_type} with {mixers[0]} alone: it refuses them in plain"
            " torch, which is what oomph plays.",
            "Say --packed-by positions, with which its mixers do not tell sequences apart.",
        )


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
    if not isinstance(job, TrainJob):
        return ()
    if model.model_type in WITH_SINKS and job.method == "full":
        return ("vLLM's flash-attn 3, which transformers takes for this model's sinks, gives these no gradients.",)
    if not job.packs:
        return ()
    if model.model_type in WITHOUT_POSITIONS:
        return (f"{model.model_type} tells {job.attention} no positions: packed sequences see those before them.",)
    if job.shape[0] > 1:
        return (
            f"transformers tells packed sequences apart for {job.attention} in batches of one row alone: here they see"
            " those before them. Trainers that pack lay all rows behind each other: --padding-free.",
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
