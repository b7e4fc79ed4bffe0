"""Fixed colours by group, so that two drawings can be compared at a glance.

Okabe and Ito's palette (jfly.uni-koeln.de/color), and Paul Tol's muted one (personal.sron.nl/~pault) for the rarer
groups: both can be told apart with any common colour blindness. Neighbouring areas are parted by a line as well.
"""

from __future__ import annotations

from collections.abc import Sequence

GROUPS = {
    "weights": "#0072b2",
    "adapters": "#f0e442",
    "master_weights": "#882255",
    "optimizer": "#009e73",
    "buffers": "#999999",
    "runtime": "#555555",
    "kv_cache": "#cc79a7",
    "state": "#aa4499",
    "gradients": "#e69f00",
    "activations": "#56b4e9",
    "temporaries": "#ddcc77",
}
OTHERS = ("#44aa99", "#88ccee", "#cc6677", "#999933", "#117733")  # groups with names of their own


def colours(groups: Sequence[str]) -> list[str]:
    """Return a colour for each group.

    >>> colours(["weights", "mine"])
    ['#0072b2', '#44aa99']
    """
    own = [name for name in groups if name not in GROUPS]
    return [GROUPS.get(name) or OTHERS[own.index(name) % len(OTHERS)] for name in groups]
