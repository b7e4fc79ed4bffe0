"""The files that the tests of llama.cpp write are read by llama.cpp itself."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from oomph.families import model_from_config
from oomph.formats.gguf_convert import convert
from oomph.formats.gguf_types import BY_NAME
from oomph.units import MIB
from tests.engines.llamacpp import real, tiny

ALIGNMENT = 32
STORED = ("gguf-f16", "gguf-bf16", "q8_0", "q4_0")


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_real_engine_reads_it(name: str, tmp_path: Path) -> None:
    """It loads, and maps as many bytes as our types give its tensors: names, shapes and types are the engine's."""
    real.needed()
    stored = STORED[list(tiny.CONFIGS).index(name) % len(STORED)]
    config = tiny.CONFIGS[name]
    tiny.write(tmp_path / "tiny.gguf", config, stored)
    said = real.start(tmp_path / "tiny.gguf", n_ctx=256, no_extra_bufts=True)
    mapped = sum(
        -(-BY_NAME[kind].tensor_bytes(shape) // ALIGNMENT) * ALIGNMENT
        for tensor, shape, kind in tiny.tensors(convert(model_from_config(config)), stored)
        if prod(shape) and not _skipped(tensor, config)
    )
    assert said.buffers["model"] == {"CPU_Mapped": pytest.approx(mapped / MIB, abs=0.006)}


def _skipped(tensor: str, config: dict[str, object]) -> bool:
    """Prediction layers are in the file and not loaded unless they are asked for."""
    return tensor.startswith(f"blk.{config.get('num_hidden_layers')}.")
