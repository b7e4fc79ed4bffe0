"""Forward passes of whole models, one file per shape of frame: what transformers' FooForCausalLM.forward does.

`PROGRAMS` names the file for each model_type; a type without one is refused. Each file holds `causal_lm`, the forward
pass, and `buffers`, what lies on the device beside the parameters; where a forward pass leaves more there,
`leave_behind` makes it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError
from oomph.programs.frames import FRAMES

if TYPE_CHECKING:
    from oomph.model import Model

OWN_FILES = (
    "baichuan", "bart", "bert", "bloom", "deberta", "distilbert", "electra", "falcon", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gptj", "litgpt", "modernbert", "opt", "phi", "qwen", "roberta", "t5", "whisper",
)  # fmt: skip
PROGRAMS: dict[str, str] = {
    **dict.fromkeys(FRAMES, "llama"),
    **{name: name for name in OWN_FILES},
    **dict.fromkeys(("marian", "mbart", "pegasus"), "bart"),
    "deberta-v2": "deberta",
    "mt5": "t5",
    "xlm-roberta": "roberta",
}
OWN_ATTENTION = ("deberta-v2",)  # types whose class knows no kernel
HEADS = ("lm_head", "embed_out", "output_projection")  # paths of language heads


def program_of(model: Model) -> Any:
    """Return the program file of a model's type; refused with a way to go on where there is none."""
    headed = any(head in model.parts for head in HEADS) or model.objective != "causal-lm"
    missing = [] if headed else ["a model without a language head"]
    if model.model_type not in PROGRAMS:
        missing = [model.model_type or "this architecture"]
    if missing := [*missing, *model.unplayed]:
        raise UnsupportedError(
            f"oomph cannot play {' and '.join(missing)} yet.", "Trace the real code instead: oomph trace."
        )
    return import_module(f"oomph.programs.{PROGRAMS[model.model_type]}")


def kernel_note(model: Model, kernel: str) -> tuple[str, ...]:
    """Say so where a model's class does not use the attention kernel that a job asks for."""
    if kernel != "eager" and model.model_type in OWN_ATTENTION:
        return (f"transformers runs {model.model_type} with an attention of its own, not {kernel}.",)
    frame = FRAMES.get(model.model_type)
    if kernel == "eager" or frame is None or frame.sdpa:
        return ()
    why = "sdpa cannot bound scores by a tanh"
    return (f"transformers runs {model.model_type} with its eager attention kernel, not {kernel}: {why}.",)
