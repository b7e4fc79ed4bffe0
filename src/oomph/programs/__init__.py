"""Forward passes of whole models, one file per shape of frame: what transformers' FooForCausalLM.forward does.

`PROGRAMS` names the file for each model_type; a type without one is refused. Each file holds `causal_lm`, the forward
pass, and `buffers`, what lies on the device beside the parameters; where a forward pass leaves more there,
`leave_behind` makes it, or `settles` is true and an earlier step is played. `cache_made_before` is true of a class
whose forward takes a cache but does not return it. One that is played with images has `inputs_of_images`, what a batch
then has beside its tokens and, where its layers look at them anew, `inputs_after_images` for tokens that follow; one
that is played with a recording has `inputs_of_audio`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError
from oomph.programs.frames import FRAMES

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob
    from oomph.model import Model

OWN_FILES = (
    "albert", "baichuan", "bamba", "bart", "bert", "biogpt", "bloom", "chatglm", "codegen", "dbrx", "deberta",
    "deepseek_v4", "distilbert", "electra", "falcon", "falcon_h1", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gptj", "internlm2", "jamba", "kimi_k25", "kimi_linear", "lfm2", "lfm2_vl", "lfm3", "litgpt", "mamba", "minimax",
    "modernbert", "mpnet", "mpt", "nemotron_h", "nomic_bert", "olmo_hybrid", "opt", "paligemma", "phi", "qwen",
    "qwen3_next", "recurrent_gemma", "roberta", "t5", "umt5", "unsloth", "vipllava", "whisper", "xglm", "zamba",
    "zamba2",
)  # fmt: skip
PROGRAMS: dict[str, str] = {
    **dict.fromkeys(FRAMES, "llama"),
    **{name: name for name in OWN_FILES},
    **dict.fromkeys(("aya_vision", "cohere2_vision"), "cohere_vision"),
    "deberta-v2": "deberta",
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), "sparse_attention"),
    "ernie": "bert",
    "falcon_mamba": "mamba",
    "gemma3": "gemma3",
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), "glm4v"),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), "gemma3n"),
    **dict.fromkeys(("gemma4", "gemma4_text"), "gemma4"),
    "granitemoehybrid": "bamba",
    "internvl": "internvl",
    "llama4": "llama4",
    "lfm2_moe": "lfm2",
    **dict.fromkeys(("llava", "mistral3"), "llava"),
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision"), "llava_next"),
    **dict.fromkeys(("blenderbot", "m2m_100", "marian", "mbart", "pegasus", "plbart"), "bart"),
    **dict.fromkeys(("internlm", "minicpm"), "remote_llama"),
    "minimax_m3_vl": "minimax_m3_vl",
    "mllama": "mllama",
    **dict.fromkeys(("idefics3", "smolvlm"), "idefics3"),
    "mamba2": "mamba",
    "mt5": "t5",
    "nemotron-nas": "decilm",
    "openai-gpt": "openai_gpt",
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), "qwen3_5"),
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text"), "qwen3_next"),
    **dict.fromkeys(("qwen2_audio", "voxtral"), "audio_lm"),
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"), "omni"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), "qwen_vl"),
    "step3p7": "step3p7",
    **dict.fromkeys(("camembert", "xlm-roberta"), "roberta"),
}
# Types whose program has the layers of the language model inside too.
OWN_DECODERS = ("gemma3n", "gemma4", "lfm2_vl", "mllama", "qwen3_5", "qwen3_5_moe")
# Types that transformers has no class for, and the one whose class their configs are read with. Kimi-K2's names
# DeepseekV3ForCausalLM, and transformers reads it so inside Kimi-K2.5 (models/kimi_k25/configuration_kimi_k25.py).
# MiniMax-M3's text model alone is that of minimax_m3_vl under another name.
SAME_CLASS = {"kimi_k2": "deepseek_v3", "minimax_m3": "minimax_m3_vl_text"}
HEADS = (  # paths of language heads
    "lm_head", "embed_out", "output", "output_projection", "transformer.output_layer", "language_model.lm_head",
)  # fmt: skip


def sees(model_type: str) -> bool:
    """Tell whether jobs of a type are played with images."""
    return model_type in PROGRAMS and hasattr(_file(model_type), "inputs_of_images")


def hears(model_type: str) -> bool:
    """Tell whether jobs of a type are played with a recording."""
    return model_type in PROGRAMS and hasattr(_file(model_type), "inputs_of_audio")


def _file(model_type: str) -> Any:
    return import_module(f"oomph.programs.{PROGRAMS[model_type]}")


def refuse_unheard(model: Model, job: TrainJob | InferJob) -> None:
    """Refuse a recording where a model is not played with one."""
    if job.audio and not hears(model.model_type):
        fix = "Leave --audio out: what is played is text alone."
        raise UnsupportedError(f"oomph cannot play a recording with {model.model_type or 'this model'} yet.", fix)


def refuse_headless(model: Model) -> None:
    """Refuse a model without a head where something is made of its last hidden state."""
    if model.objective == "embedding":
        fix = "Say what its head is for: --task; or take --objective contrastive of `oomph train`."
        raise UnsupportedError("oomph cannot play a model without a language head here.", fix)


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
    return _file(model.model_type)
