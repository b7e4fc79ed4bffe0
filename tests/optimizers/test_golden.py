"""Steps of optimizers whose packages are not installed for the tests equal what the real ones did."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.optimizers.golden import GOLDEN, JOBS, name, of_tape

RECORDED = json.loads(GOLDEN.read_text())["steps"]


@pytest.mark.parametrize(("raw", "inputs"), JOBS, ids=[name(*each) for each in JOBS])
def test_a_step_is_as_recorded(raw: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Number of events, peak, bytes of states, and a digest of every allocation and free."""
    assert of_tape(raw, inputs) == RECORDED[name(raw, inputs)]


def test_every_record_is_of_a_job() -> None:
    """Nothing is left of jobs that there are no more."""
    assert set(RECORDED) == {name(*each) for each in JOBS}
