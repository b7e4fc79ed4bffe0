"""Nothing is skipped: every row that goes in comes out scored or refused, whatever is in it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.job import InferJob
from oomph.score.asking import Case, catalogued
from oomph.score.reading import MUST_NOT_FIT, Answer, Question, Schema
from oomph.score.scoring import Outcome, score
from tests.score.rows import ALL, INFERENCE, MEASURED, TRAINING, XMEM, changed

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
# Keys by which a row's schema is told stay, so that a changed row is one of a known schema.
TELLING = ("schema", "measured", "framework", "method", "engine", "model", "source", "task", "kind", "job", "config")
# Cheap to estimate: whatever a broken value leaves standing is played on it.
SMALL = (changed(TRAINING, model="Qwen/Qwen2.5-0.5B-Instruct"), INFERENCE, changed(XMEM, batch_size=1), MEASURED)


@st.composite
def broken(draw: Callable[..., Any]) -> dict[str, Any]:
    """A row by hand with up to three of its values, at any depth, replaced by any JSON."""
    row: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(SMALL)))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = row
        key = draw(st.sampled_from(sorted(place)))
        while isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from(sorted(place)))
        if place is row and key in TELLING and not isinstance(row[key], dict):
            continue
        place[key] = draw(json_values)
    return row


@given(st.lists(broken(), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_rows_in_are_rows_scored_or_refused(rows: list[dict[str, Any]]) -> None:
    """Each row yields outcomes, each with an estimate or a reason, never both, and no row is an exception."""
    found = list(score([(f"Line {n}", row) for n, row in enumerate(rows, 1)]))
    assert {one.row for one in found} == set(range(len(rows)))
    for one in found:
        assert (one.refused is None) == (one.predicted is not None) == (one.safe is not None)
        assert one.refused is None or one.refused.strip()
    names = [(one.row, one.quantity) for one in found]
    assert len(names) == len(set(names))


def test_rows_by_hand_are_all_estimated() -> None:
    """One of each schema has an estimate, so the identity is not one of refusals only."""
    found = list(score([(str(n), row) for n, row in enumerate(ALL)]))
    assert {one.row for one in found if one.refused is None} == set(range(len(ALL)))


def test_less_confidence_is_scored_when_asked_for() -> None:
    """Of three rows of falling confidence, as many are scored as the threshold says."""
    rows = [("", changed(INFERENCE, confidence=word)) for word in ("high", "medium", "low")]
    counts = [
        sum(one.refused is None for one in score(rows, least) if one.quantity == "weights_gib")
        for least in ("high", "medium", "low")
    ]
    assert counts == [1, 2, 3]


def test_the_relative_error_is_signed_and_of_the_measurement() -> None:
    """9 predicted where 10 were measured is -10 %; a limit that must not be met has no error."""
    one = Outcome(0, "a", "g", "peak_allocated_gib", 10.0, 9.0, 11.0)
    assert one.relative_error is not None
    assert abs(one.relative_error + 0.1) < 1e-12
    assert Outcome(0, "a", "g", MUST_NOT_FIT, 10.0, 9.0, 11.0).relative_error is None
    assert Outcome(0, "a", "g", "x_gib", 10.0, refused="no").relative_error is None


def test_a_figure_that_the_ledger_lacks_is_refused_by_name() -> None:
    """A ledger without reserved memory refuses it and does not stand in another figure."""
    case = Case(catalogued("gpt2"), InferJob(seq_len=4, precision="fp32", attention="eager"), None)
    case.__dict__["ledger"] = _NoFigures()
    row = {"one": 1, "measured": {"peak_reserved_gib": 1.0}}
    schema = Schema("one", ("one",), lambda _: "g", lambda _: Question({"peak_reserved_gib": ask}))

    def ask() -> Answer:
        return case.figure("reserved")

    assert schema.fits(row)
    (outcome,) = _score_with(schema, row)
    assert outcome.refused == "reserved memory: not modelled for this job"


class _NoFigures:
    def figure(self, name: str) -> None:
        """No figure of any name."""


def _score_with(schema: Schema, row: dict[str, Any]) -> list[Outcome]:
    from unittest.mock import patch

    with patch("oomph.score.readers.SCHEMAS", (schema,)):
        return list(score([("Line 1", {**row, "confidence": "high"})]))
