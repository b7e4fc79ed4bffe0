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
from oomph.programs.frames import FRAMES

if TYPE_CHECKING:
    from oomph.model import Model

OWN_FILES = (
    "baichuan", "bamba", "bart", "bert", "bloom", "chatglm", "deberta", "distilbert", "electra", "falcon", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "internlm2", "jamba", "lfm2", "lfm3", "litgpt", "mamba",
    "modernbert", "mpt", "nemotron_h", "olmo_hybrid", "opt", "paligemma", "phi", "qwen", "qwen3_next",
    "roberta", "t5", "whisper",
)  # fmt: skip
PROGRAMS: dict[str, str] = {
    **dict.fromkeys(FRAMES, "llama"),
    **{name: name for name in OWN_FILES},
    "deberta-v2": "deberta",
    "falcon_mamba": "mamba",
    "gemma3": "gemma3",
    "granitemoehybrid": "bamba",
    "lfm2_moe": "lfm2",
    **dict.fromkeys(("llava", "llava_next", "mistral3"), "llava"),
    **dict.fromkeys(("marian", "mbart", "pegasus"), "bart"),
    "mllama": "mllama",
    **dict.fromkeys(("idefics3", "smolvlm"), "idefics3"),
    "mamba2": "mamba",
    "mt5": "t5",
    **dict.fromkeys(("qwen3_5_moe_text", "qwen3_5_text"), "qwen3_next"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "qwen_vl"),
    "xlm-roberta": "roberta",
}
SEEING = frozenset(
    {
        "gemma3",
        "idefics3",
        "llava",
        "mistral3",
        "mllama",
        "paligemma",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "smolvlm",
    }
)  # types that are played with images
OWN_ATTENTION = ("deberta-v2",)  # types whose class knows no kernel
OWN_DECODERS = ("mllama",)  # types whose program has the layers of the language model inside too
HEADS = ("lm_head", "embed_out", "output", "output_projection", "transformer.output_layer")  # paths of language heads


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


def kernel_note(model: Model, kernel: str) -> tuple[str, ...]:
    """Say so where a model's class does not use the attention kernel that a job asks for, or could use a package's."""
    frame = FRAMES.get(model.decoder_type)
    packages = dict.fromkeys(PACKAGES[block.kind] for block in descend(model.parts) if block.kind in PACKAGES)
    found = [
        f"transformers without the packages {names} is played: its mixers in plain torch, which takes more."
        for names in packages
    ]
    if kernel != "eager" and model.model_type in OWN_ATTENTION:
        found.append(f"transformers runs {model.model_type} with an attention of its own, not {kernel}.")
    if kernel != "eager" and frame is not None and not frame.sdpa:
        why = "sdpa cannot bound scores by a tanh"
        found.append(f"transformers runs {model.model_type} with its eager attention kernel, not {kernel}: {why}.")
    return tuple(found)
