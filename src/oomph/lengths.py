"""How long the samples of a data set are, and so the batches of a run that does not pack them.

Lengths are taken as log-normal, which token counts of texts are close to, from the mean and the standard deviation that
data loaders print.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from math import exp, log, log1p, sqrt
from statistics import NormalDist

from oomph.errors import UsageError

MOST = 2**31  # tokens; more is a slip of the keyboard
RARE = 1e-6  # share of samples that counts as none

_SPREAD = re.compile(r"(\d{1,10})(?:±|\+-|\+/-)(\d{1,10})", re.ASCII)


@dataclass(frozen=True)
class Lengths:
    """Mean and standard deviation of the samples' lengths, in tokens.

    >>> Lengths.parse("3234±2547")
    Lengths(mean=3234, deviation=2547)
    """

    mean: int
    deviation: int

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Return the lengths that a text spells, as 500±300 or 500+-300."""
        found = _SPREAD.fullmatch("".join(text[:40].split()))
        if found is None or not 1 <= int(found[1]) <= MOST or not 1 <= int(found[2]) <= MOST:
            raise UsageError(
                f"lengths cannot be {text[:40]!r}.", "Say fixed, or mean and deviation in tokens: 500±300 or 500+-300."
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def log(self) -> NormalDist:
        """The distribution of the logarithm of a length."""
        variance = log1p((self.deviation / self.mean) ** 2)
        return NormalDist(log(self.mean) - variance / 2, sqrt(variance))

    def batches(self, batch: int, limit: int, drop: bool, count: int, rng: random.Random) -> list[int]:
        """Return the lengths of so many batches, each that of the longest of its `batch` samples, one of them `limit`.

        Samples above `limit` are cut to it, or dropped from the data.

        >>> Lengths(300, 200).batches(4, 512, False, 5, random.Random(0))
        [304, 344, 498, 512, 452]
        """
        below = self.log.cdf(log(limit)) if drop else 1.0
        if below < RARE:
            raise UsageError(f"Hardly a sample has {limit} tokens or less.", "Raise --seq, or let long samples be cut.")
        # The longest of n samples is below x with the n-th power of the probability that one is.
        shares = (min(below * (1 - rng.random()) ** (1 / batch), 1 - RARE) for _ in range(count))
        lengths = [max(1, min(limit, round(exp(self.log.inv_cdf(share))))) for share in shares]
        lengths[lengths.index(max(lengths))] = limit
        return lengths
