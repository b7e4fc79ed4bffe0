"""Forward passes of whole models, one file per shape of frame: what transformers' FooForCausalLM.forward does.

`PROGRAMS` names the file for each model_type; a type without one is refused. Each file holds `causal_lm`, the forward
pass, and `buffers`, what lies on the device beside the parameters.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.model import Model

PROGRAMS: dict[str, str] = {
    "bert": "bert",
    "bloom": "bloom",
    "falcon": "falcon",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neox": "gpt_neox",
    "gptj": "gptj",
    "llama": "llama",
    "mistral": "llama",
    "opt": "opt",
    "phi": "phi",
    "qwen2": "llama",
    "qwen3": "llama",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
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
