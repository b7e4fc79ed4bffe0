"""estimate == trace: the tape's step equals the real code's under FakeTensorMode, event by event.

The only normalisations are those that oomph.compare states. Anything else is a bug with an operation's name.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from oomph.job import TrainJob
from tests.referee import models
from tests.tape.grid import CHECKPOINTING, FAMILIES, compare, grid

pytestmark = pytest.mark.slow

GRID = list(grid())
AUTOCAST = list(product(FAMILIES, CHECKPOINTING, (False, True)))


@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_step_equals_the_trace(raw: dict[str, Any], job: TrainJob) -> None:
    """Forward, backward, clipping, optimizer and zero_grad: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize(("family", "checkpointing", "tied"), AUTOCAST)
def test_autocast_with_accumulation_equals_the_trace(family: str, checkpointing: Any, tied: bool) -> None:
    """The cache of cast weights with every way of checkpointing, over two micro-batches, tables tied or not."""
    raw = {**(models.GPT2 if family == "gpt2" else models.LLAMA), "model_type": family, "tie_word_embeddings": tied}
    raw |= {"sliding_window": None} if family == "mistral" else {}
    job = TrainJob(
        2, 37, "amp-bf16" if tied else "amp-fp16", checkpointing=checkpointing, accumulation=2, optimizer="none"
    )
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
