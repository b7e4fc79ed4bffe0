"""Lengths of samples: what a text spells, and that batches have the lengths that were asked for."""

from __future__ import annotations

import random
from math import log
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.errors import UsageError
from oomph.job import TrainJob
from oomph.lengths import MOST, RARE, Lengths

sizes = st.integers(1, MOST)


@pytest.mark.parametrize("text", ["500±300", "500+-300", "500 +/- 300", " 500 ± 300 "])
def test_spellings(text: str) -> None:
    """As data loaders print it, and as keyboards have it."""
    assert Lengths.parse(text) == Lengths(500, 300)


@pytest.mark.parametrize("text", ["", "500", "±300", "0±3", "3±0", "-5±3", "1e9±1", f"{MOST + 1}±1", "9" * 999, "٣±٣"])
def test_what_is_no_length(text: str) -> None:
    """Nothing is guessed, and the message stays short."""
    with pytest.raises(UsageError, match="lengths cannot be") as raised:
        Lengths.parse(text)
    assert len(str(raised.value)) < 200


@given(sizes, sizes, st.integers(1, 2**31), sizes, st.booleans(), st.integers(1, 50), st.integers())
def test_batches_keep_to_the_limit(
    mean: int, std: int, batch: int, limit: int, drop: bool, count: int, seed: int
) -> None:
    """One batch is as long as the limit, none longer; or hardly a sample is short enough, and that is said."""
    lengths = Lengths(mean, std)
    if drop and lengths.log.cdf(log(limit)) < RARE:
        with pytest.raises(UsageError, match="Hardly a sample"):
            lengths.batches(batch, limit, drop, count, random.Random(seed))
        return
    found = lengths.batches(batch, limit, drop, count, random.Random(seed))
    assert len(found) == count
    assert max(found) == limit
    assert min(found) >= 1


def test_samples_have_the_mean_and_the_deviation() -> None:
    """Those that were asked for, to what ten thousand samples tell of them."""
    found = Lengths(400, 300).batches(1, 10**6, False, 10_001, random.Random(5))
    found.remove(10**6)
    assert fmean(found) == pytest.approx(400, rel=0.03)
    assert pstdev(found) == pytest.approx(300, rel=0.06)


def test_a_batch_is_as_long_as_its_longest_sample() -> None:
    """The mean of the longest of eight, held against eight samples drawn one by one."""
    lengths, rng = Lengths(400, 300), random.Random(7)
    singles = lengths.batches(1, 10**6, False, 8 * 2000 + 1, rng)
    singles.remove(10**6)
    longest = [max(singles[at : at + 8]) for at in range(0, 8 * 2000, 8)]
    eights = lengths.batches(8, 10**6, False, 2001, rng)
    eights.remove(10**6)
    assert fmean(eights) == pytest.approx(fmean(longest), rel=0.04)


def test_long_samples_are_cut_or_dropped() -> None:
    """Of samples that are mostly too long, cut ones are all of one length, and what is left of dropped ones is not."""
    cut, kept = (Lengths(3000, 2000).batches(1, 512, drop, 200, random.Random(1)) for drop in (False, True))
    assert cut.count(512) > 180
    assert kept.count(512) < 10
    assert fmean(kept) < 450


def test_a_job_refuses_what_does_not_go_together() -> None:
    """A text that is no length, and packed samples, which all make rows of one length."""
    with pytest.raises(UsageError, match="lengths cannot be"):
        TrainJob(lengths="many")
    with pytest.raises(UsageError, match="Packed"):
        TrainJob(lengths="500±300", packing=True)
