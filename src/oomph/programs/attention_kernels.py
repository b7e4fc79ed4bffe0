"""Which attention kernel the class of a model runs where a job asks for one, and what is said of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN, Kernel
from oomph.programs.frames import FRAMES
from oomph.programs.mixer_packages import named, packages_of, word_of

if TYPE_CHECKING:
    from oomph.model import Model

# Types whose class hands on to the packages flash-attn 2 and 3, as programs play it; and types whose class knows none.
NO_FLASH_ATTN = (  # of the frames
    "llama4_text", "minimax_m3", "minimax_m3_vl_text", "mimo_v2_flash", "qwen2_vl_text", "qwen2_5_vl_text",
    "qwen3_vl_text", "step3p5", "glm4v_text", "glm4v_moe_text", "qwen2_5_omni_text", "qwen3_omni_moe_text",
)  # fmt: skip
FLASH_ATTN_TYPES = (frozenset(FRAMES) - {*NO_FLASH_ATTN}) | {
    "biogpt", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi",
    "bert", "distilbert", "electra", "modernbert", "nomic_bert", "roberta", "xlm-roberta",
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
        "codegen",
        "deepseek_v32",
        "deepseek_v4",
        "glm_moe_dsa",
        "internlm",
        "deberta",
        "deberta-v2",
        "falcon_mamba",
        "llama4_text",
        "mimo_v2_flash",
        "minimax_m3",
        "minimax_m3_vl",
        "minimax_m3_vl_text",
        "mamba",
        "mamba2",
        "mpnet",
        "mpt",
        "step3p7",
        "nemotron-nas",
        "openai-gpt",
        "mt5",
        "t5",
        "umt5",
        "xglm",
    }
)
# Types with sinks, in which transformers takes vLLM's flash-attn 3 for either package.
WITH_SINKS = ("gpt_oss",)
EAGER = ("deepseek_v4", "mimo_v2_flash")  # types with sinks whose class takes no other kernel than its own
# Types of which AutoModelForCausalLM loads the decoder alone (transformers 5.23, models/auto/modeling_auto.py).
WITH_A_TOWER = ("llama4", "mllama", "qwen3_5", "qwen3_5_moe")
OWN_ATTENTION = (  # types whose class knows no kernel
    "codegen", "deberta-v2", "internlm", "mpnet", "nemotron-nas", "openai-gpt", "xglm",
)  # fmt: skip


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
    missing = [word for packages in packages_of(model) for word in packages if word not in job.mixers.split("+")]
    if missing:
        found = word_of(packages_of(model)[0])
        played = f"Where they are installed: --mixers {found}. Or say" if "mamba-ssm" not in missing else "Say"
        raise UnsupportedError(
            f"transformers takes cu_seq_lens in {model.model_type} with {named(missing)} alone: it refuses them in"
            " plain torch, which is what oomph plays.",
            f"{played} --packed-by positions, with which its mixers do not tell sequences apart.",
        )
    if "mamba-ssm" in job.mixers.split("+"):
        fix = "Say --packed-by positions, with which its mixers do not tell sequences apart."
        raise UnsupportedError("oomph cannot play cu_seq_lens with mamba-ssm yet.", fix)


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
    """Say so where a model's class does not use the attention kernel that a job asks for, and which class it is where
    there are two.
    """
    frame = FRAMES.get(model.decoder_type)
    found = []
    if model.model_type in WITH_A_TOWER:
        found.append("The whole model is played, with its tower; AutoModelForCausalLM loads the decoder alone.")
    if kernel != "eager" and model.model_type in OWN_ATTENTION:
        found.append(f"transformers runs {model.model_type} with an attention of its own, not {kernel}.")
    if kernel not in ("eager", *FLASH_ATTN) and (model.model_type in EAGER or (frame is not None and not frame.sdpa)):
        sinks = model.model_type in (*EAGER, *WITH_SINKS)
        why = "sdpa knows no sinks" if sinks else "sdpa cannot bound scores by a tanh"
        found.append(f"transformers runs {model.model_type} with its eager attention kernel, not {kernel}: {why}.")
    return tuple(found)
