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
NO_FLASH_ATTN = (
    "gpt_oss",
    "llama4_text",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "glm4v_text",
    "glm4v_moe_text",
)  # of the frames
FLASH_ATTN_TYPES = (frozenset(FRAMES) - {*NO_FLASH_ATTN}) | {
    "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi",
    "bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta",
    "bamba", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "lfm3", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text",
    "qwen3_5_text", "qwen3_next",
}  # fmt: skip
# Types whose layers are told no positions.
WITHOUT_POSITIONS = ("distilbert", "gpt_bigcode", "gpt_neo", "gptj", "granitemoehybrid", "modernbert")
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
