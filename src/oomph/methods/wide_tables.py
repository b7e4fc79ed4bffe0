"""Norms, routers, embedding and head in fp32 around 16-bit weights, as axolotl leaves them in full fine-tuning.

Effect: their weights, gradients and states take twice as much, and so does what flows between layers, as the embedded
tokens are fp32. Cost: memory, for steps of the optimizer that are not rounded. When: axolotl without an adapter, where
`attn_implementation` is sdpa, eager or not said; flash-attn wants all in 16 bits, and so does cut cross entropy. Flag:
--wide-tables. Source: axolotl 0.19, loaders/model.py, _configure_embedding_dtypes, _convert_embedding_modules_dtype.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, rewritten
from oomph.errors import UnsupportedError
from oomph.methods.bitsandbytes import HALF
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.model import Model

ROUTER = ".gate"  # how the names of its module end
TABLES = ("embed_tokens", "lm_head")  # get_linear_embedding_layers, but for types that are not played
PLAYED = (
    "glm4", "llama", "ministral", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
)  # fmt: skip


def with_wide_tables(model: Model) -> Model:
    """Return the model with those of its parameters in fp32 that axolotl casts by the names of their modules.

    Raises UnsupportedError for types not held against that.
    """
    if model.model_type not in PLAYED:
        fix = "Leave --wide-tables out: they are then in 16 bits, which takes less."
        raise UnsupportedError(f"wide_tables are played in {', '.join(PLAYED)}, not in {model.model_type}.", fix)

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Tensor) or part.dtype not in (None, *HALF):
            return part
        module = path.rpartition(".")[0]
        cast = "norm" in module or module.endswith(ROUTER) or any(table in module for table in TABLES)
        return replace(part, dtype="fp32") if cast or (model.tied and part.role == "embedding") else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})
