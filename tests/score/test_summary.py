"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import pytest

from oomph.score.reading import MUST_NOT_FIT
from oomph.score.scoring import Outcome
from oomph.score.summary import by_quantity, percentile, summary, to_dict, worst

ROWS = [
    Outcome(0, "a", "x", "peak_gib", 10.0, 9.0, 9.5),  # -10 %, above the bound
    Outcome(1, "b", "x", "peak_gib", 10.0, 12.0, 12.0),  # +20 %
    Outcome(2, "c", "y", "peak_gib", 20.0, 19.0, 20.0),  # -5 %, on the bound
    Outcome(3, "d", "y", "peak_gib", 10.0, 14.0, 15.0),  # +40 %
    Outcome(4, "e", "y", "peak_gib", 10.0, refused="method lora: not modelled yet"),
]


def test_statistics_by_hand() -> None:
    """Absolute errors 10, 20, 5, 40 %: median 15, mean 18.75, p90 and max 40; signed -10, 20, -5, 40: median 7.5."""
    found = summary(ROWS)
    assert (found.n, found.refused, found.reasons) == (4, 1, {"method lora: not modelled yet": 1})
    assert found.median == pytest.approx(0.15)
    assert found.mean == pytest.approx(0.1875)
    assert found.p90 == found.max == pytest.approx(0.4)
    assert found.bias == pytest.approx(0.075)
    assert found.under == 0.5
    assert found.within_safe == 0.75


def test_nearest_rank_percentiles() -> None:
    """The 90th percentile of ten values is the ninth, of nine the ninth, of one itself."""
    assert percentile([float(n) for n in range(10, 0, -1)], 90) == 9
    assert percentile([float(n) for n in range(1, 10)], 90) == 9
    assert percentile([3.0], 90) == 3


def test_nothing_scored_has_no_statistics() -> None:
    """Only refusals: no median, no share."""
    found = summary([ROWS[4]])
    assert (found.n, found.refused, found.median, found.under, found.within_safe) == (0, 1, None, None, None)


def test_runs_out_of_memory_are_counted_by_verdict() -> None:
    """Of three, one is called fitting, one tight; they have no error and are in no median."""
    rows = [
        Outcome(n, str(n), "x", MUST_NOT_FIT, 80.0, 70.0, 90.0, status=status)
        for n, status in enumerate(("fits", "tight", "too_big"))
    ]
    found = summary(rows)
    assert (found.n, found.called_fitting, found.called_tight, found.median) == (3, 1, 1, None)


def test_worst_rows_first() -> None:
    """By absolute error, refusals never."""
    assert [one.id for one in worst(ROWS, 3)] == ["d", "b", "a"]


def test_json_has_exactly_the_keys_that_are_promised() -> None:
    """Programs read rows by these keys; a refusal has its reason and no estimate."""
    found = to_dict(ROWS)
    assert list(found) == ["rows", "summary"]
    assert found["rows"][0] == {
        "id": "a",
        "quantity": "peak_gib",
        "measured": 10.0,
        "predicted": 9.0,
        "safe": 9.5,
        "relative_error": pytest.approx(-0.1),
        "refused": None,
    }
    assert found["rows"][4]["refused"] == "method lora: not modelled yet"
    assert found["rows"][4]["predicted"] is found["rows"][4]["relative_error"] is None
    both = found["summary"]["peak_gib"]
    assert (both["n"], both["groups"]["x"]["n"], both["groups"]["y"]["n"]) == (4, 2, 2)
    assert both["groups"]["y"]["refused"] == 1


def test_quantities_with_most_estimates_come_first() -> None:
    """Runs out of memory are last, however many they are."""
    rows = [
        Outcome(0, "a", "x", MUST_NOT_FIT, 1.0, 2.0, 2.0, status="too_big"),
        Outcome(1, "b", "x", "few_gib", 1.0, refused="no"),
        Outcome(2, "c", "x", "many_gib", 1.0, 1.0, 1.0),
    ]
    assert list(by_quantity(rows)) == ["many_gib", "few_gib", MUST_NOT_FIT]


def test_what_is_left_to_requests_is_safe_from_below() -> None:
    """Weights are safe if no more was measured than the bound, room for keys and values if no less was."""
    taken = [Outcome(0, "a", "g", "weights_gib", 10.0, 9.0, safe) for safe in (9.5, 10.5)]
    left = [Outcome(0, "a", "g", "kv_cache_gib", 10.0, 11.0, safe) for safe in (9.5, 10.5)]
    assert (summary(taken).within_safe, summary(left).within_safe) == (0.5, 0.5)
    assert summary(left[:1]).within_safe == 1.0
