"""fms-acceleration's kernels: Unsloth's RMSNorm and rotary embedding, as its foak plugin puts them in.

Effect: a norm keeps its input in its own dtype instead of fp32 copies, and its gradient is written over the incoming
one. Cost: scales of norms get no gradient and so never train. Flag: --kernels foak. Source: fms-acceleration-foak 0.7,
kernels/unsloth/rms_layernorm.py, rope_embedding.py, models/<type>.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, rewritten
from oomph.blocks.basic import Norm
from oomph.kernels import Patch, patched
from oomph.methods.targets import freeze

if TYPE_CHECKING:
    from oomph.model import Model

BOTH = Patch("foak", "foak")
PATCHES: dict[str, Patch] = {"llama": BOTH, "mistral": BOTH, "granite": BOTH, "gpt_bigcode": Patch()}


def with_kernels(model: Model) -> Model:
    """Return the model as the plugin patches it; GPT-BigCode has nothing but a loss to patch."""
    model = patched(model, "fms-acceleration", PATCHES)

    def change(path: str, part: Part) -> Part:
        return freeze(part) if isinstance(part, Norm) and part.style == "foak" else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})
