"""The compute buffers of an ik_llama.cpp server: its model's graph, played in the context that it is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from oomph.engines.ik.graph import compute_buffers
from oomph.engines.ik.setup import IkBuild, IkFlags, IkSetup
from oomph.engines.llamacpp.compute import Question, by_device
from oomph.engines.llamacpp.compute import setup as common
from oomph.engines.llamacpp.file import EMBEDDING
from oomph.engines.llamacpp.graph_setup import CPU, GraphSetup, Hparams, Stored
from oomph.engines.llamacpp.kv import Window
from oomph.formats.gguf_types import BY_NAME

Amount = Any  # an int or a numpy array of them

NEWEST = IkBuild()
STEP = 32  # tokens that a cache grows by


@dataclass(frozen=True)
class IkQuestion(IkFlags, Question):
    """All that decides the compute buffers: what does for llama.cpp, and the flags that ik_llama.cpp has beside."""

    repack: bool = False


@lru_cache(maxsize=512)
def buffers(asked: IkQuestion, n_ctx: int) -> Mapping[int, int]:
    """Return the bytes of the compute buffer of each GPU, and of the host (-1), in a context of so many tokens.

    Raises UnsupportedError for an architecture whose graph is not known.
    """
    return by_device(asked, lambda: compute_buffers(setup(asked, n_ctx)))


def setup(asked: IkQuestion, n_ctx: int) -> IkSetup:
    """Return the question as the graph builders take it."""
    made = common(asked, Window(n_ctx, n_ctx, 1, 1))
    values = {each.name: getattr(made, each.name) for each in fields(GraphSetup)}
    hparams = made.hparams
    if asked.sizes.latent and not asked.mla:
        hparams = _with_heads(hparams, made.tensors)
    values |= {"cells": n_ctx, "swa_cells": 0, "n_seq_max": 1, "hparams": hparams}
    if asked.repack:
        values["tensors"] = {name: _repacked(name, tensor) for name, tensor in made.tensors.items()}
    flags = {each.name: getattr(asked, each.name) for each in fields(IkFlags)}
    return IkSetup(**{**values, **flags, "mla": asked.mla if asked.sizes.latent else 0})


def _with_heads(hparams: Hparams, tensors: Mapping[str, Stored]) -> Hparams:
    """Return the sizes of keys and values of every head, which latent attention with -mla 0 keeps."""
    q = tensors.get("blk.0.attn_q_b.weight") or tensors["blk.0.attn_q.weight"]
    out, heads = tensors["blk.0.attn_output.weight"], hparams.n_head[0]
    count = hparams.n_layer
    return replace(
        hparams,
        n_head_kv=hparams.n_head,
        head_k=(q.ne[1] // heads,) * count,
        head_v=(out.ne[0] // heads,) * count,
    )


def _repacked(name: str, tensor: Stored) -> Stored:
    """Return a tensor of the host in rows of four, eight or sixteen, as -rtr makes them (iqk_repack_tensor)."""
    kind = tensor.type.name
    to = next((BY_NAME[each] for each in (f"{kind}_R4", f"{kind}_R8", f"{kind}_R16") if each in BY_NAME), None)
    if to is None or tensor.device != CPU or len(tensor.ne) < 2 or name == EMBEDDING:
        return tensor
    return replace(tensor, type=to)


def exactly(asked: IkQuestion, device: int, n_ctx: Amount) -> Amount:
    """Return the bytes of a device's compute buffer; contexts may be an array.

    Each is played, which most of them share with others: where -amb divides heads, buffers are no straight lines.
    """
    if isinstance(n_ctx, int):
        return buffers(asked, n_ctx)[device]
    import numpy as np  # the amounts are an array of it, so that it is here

    some, places = np.unique(n_ctx, return_inverse=True)
    found = np.array([buffers(asked, int(each))[device] for each in some], dtype=np.int64)
    return found[places.ravel()].reshape(n_ctx.shape)
