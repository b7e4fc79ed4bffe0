"""What older builds of ik_llama.cpp reserve otherwise, by their numbers: commits up to them.

Sources: the pull requests 461 and 462 (b3715: CUDA multiplies with types in rows of four), 520 (b3745: when experts are
copied in), 741 (b3869: gate and up maps in one operation), and 18eeb489 (b3811, July 2025), whose graphs they are.
"""

from __future__ import annotations

from dataclasses import replace

from oomph.engines.ik.setup import SPRING_2025, SUMMER_2025, IkBuild
from oomph.errors import UnsupportedError

FIRST, LAST = 3672, 3868  # FlashMLA-3 on CUDA (pull request 386); before pull request 741
INTERLEAVED_SINCE, BY_EXPERTS_SINCE = 3715, 3745


def build_of(number: int) -> IkBuild:
    """Return what a build reserves; raises UnsupportedError for one that is not known.

    >>> build_of(3811) == SUMMER_2025, build_of(3700) == SPRING_2025
    (True, True)
    """
    if not FIRST <= number <= LAST:
        raise UnsupportedError(
            f"What build {number} of ik_llama.cpp does is not known here.",
            f"Known are b{FIRST} to b{LAST}; leave the version out for the newest.",
        )
    if number >= BY_EXPERTS_SINCE:
        return SUMMER_2025
    return SPRING_2025 if number < INTERLEAVED_SINCE else replace(SUMMER_2025, by_experts=False)
