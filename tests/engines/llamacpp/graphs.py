"""Tiny models in contexts for the graph builders, as a real llama.cpp was started with them for its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oomph.engines.llamacpp.graph_setup import GraphSetup, Stored
from oomph.engines.llamacpp.hparams import hparams_of
from oomph.families import model_from_config
from oomph.formats.gguf_convert import convert
from oomph.formats.gguf_types import BY_NAME
from tests.engines.llamacpp import tiny

GOLDEN = Path(__file__).with_name("compute_golden.json")
MODELS = {**tiny.CONFIGS, **tiny.MORE}
LOTS = 256  # cells: n_ctx and windows are padded to a multiple
# n_ctx, n_batch, n_ubatch, n_parallel, kv_unified, flash_attn, types of keys and values
STARTS: tuple[dict[str, Any], ...] = (
    {"n_ctx": 4096},
    {"n_ctx": 4096, "flash_attn": False},
    {"n_ctx": 8192, "n_parallel": 4, "flash_attn": False, "n_ubatch": 256},
    {"n_ctx": 2048, "n_parallel": 4, "kv_unified": True, "n_ubatch": 100},
    {"n_ctx": 16384, "n_ubatch": 2048, "n_parallel": 3, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    {"n_ctx": 300, "n_ubatch": 1024, "n_parallel": 2},
)


def setup_of(
    config: dict[str, Any],
    n_ctx: int,
    n_ubatch: int = 512,
    n_parallel: int = 1,
    kv_unified: bool = False,
    flash_attn: bool = True,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
) -> GraphSetup:
    """Return a model of a config in a context, all of it with the host."""
    model = model_from_config(config)
    found = convert(model)
    tensors = {
        name: Stored(tuple(reversed(shape)), BY_NAME[kind]) for name, shape, kind in tiny.tensors(found, "gguf-f16")
    }
    padded = -(-n_ctx // LOTS) * LOTS
    cells = padded if kv_unified else -(-(padded // n_parallel) // LOTS) * LOTS
    whole = padded if kv_unified else cells * n_parallel
    n_ubatch, window = min(n_ubatch, n_ctx), config.get("sliding_window")
    seen = (window or 0) * (n_parallel if kv_unified else 1) + n_ubatch
    return GraphSetup(
        arch=found.traits.arch,
        tensors=tensors,
        hparams=hparams_of(model, found.traits.arch),
        n_ctx=whole,
        cells=cells,
        swa_cells=min(cells, -(-seen // LOTS) * LOTS) if window else 0,
        n_ubatch=n_ubatch,
        n_seq_max=n_parallel,
        n_outputs_max=n_parallel,
        kv_unified=kv_unified,
        flash_attn=flash_attn,
        type_k=BY_NAME[cache_type_k.upper()],
        type_v=BY_NAME[cache_type_v.upper()],
    )
