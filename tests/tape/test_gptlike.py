"""estimate == trace for GPT-like families and encoders: every event of a step and of a pass equals the real code's."""

from __future__ import annotations

from itertools import product

import pytest

from tests.tape.gptlike import FAMILIES, playable
from tests.tape.grid import compare

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("family", "index"), product(FAMILIES, range(3)))
def test_every_event_equals_the_trace(family: str, index: int) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(*playable(family, index))
    assert parting is None, str(parting)
    assert ours == theirs
