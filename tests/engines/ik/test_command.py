"""ik_llama.cpp's command line, where it means more than one word at a time."""

from __future__ import annotations

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.flags import read_flags
from oomph.engines.ik import IkJob
from oomph.errors import UsageError


@pytest.mark.parametrize("name", ["llama.cpp", "ik_llama.cpp"])
def test_patterns_of_tensors_add_up(name: str) -> None:
    """-ot may be said as often as there are patterns; the engines ask them in that order."""
    read = read_flags(engine(name), ["-ot", "blk.0.ffn=CPU", "-c", "4096", "-ot", "exps=CPU"])
    assert read.job.override_tensor == "blk.0.ffn=CPU,exps=CPU"  # type: ignore[attr-defined]


def test_the_first_pattern_that_a_name_has_counts() -> None:
    """Experts of first layers on the GPU, all others with the host, as users write it."""
    here, there = r"blk\.[0-2]\.ffn.*=CUDA0", "exps=CPU"
    held = {}
    for patterns in (f"{here},{there}", f"{there},{here}"):
        job = IkJob(ctx_size=4096, format="q8_0", override_tensor=patterns)
        share = engine("ik_llama.cpp").deploy(subject("qwen3-30b-a3b"), job, [find("h200")]).shares[0]
        held[patterns.partition("=")[0]] = share.items[0].n_bytes
    more, less = held.values()
    assert more > less


def test_a_gpu_that_is_not_there_is_refused() -> None:
    """Its number is among those of the GPUs that are used."""
    job = IkJob(ctx_size=4096, format="q8_0", override_tensor="exps=CUDA1")
    with pytest.raises(UsageError, match="CUDA1, of 1"):
        engine("ik_llama.cpp").deploy(subject("qwen3-30b-a3b"), job, [find("h200")])
