"""Ranks of single maps beside the one that all others have: PEFT's rank_pattern, as q_proj=16,mlp.down_proj=4.

Source: PEFT 0.21, utils/other.py, get_pattern_key: the first name that a path ends in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, rewritten
from oomph.errors import UsageError, close_matches
from oomph.methods.targets import matches

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.sizes import Size

PAIR = re.compile(r"([A-Za-z_][\w.]{0,99})=([1-9][0-9]{0,5})")
MOST_PAIRS = 100


def parsed(pattern: str) -> dict[str, int]:
    """Return the rank of each name; raises UsageError for what is no list of pairs, or names one layer of many.

    >>> parsed("q_proj=16, mlp.down_proj=4")
    {'q_proj': 16, 'mlp.down_proj': 4}
    """
    pairs = [PAIR.fullmatch(each.strip()) for each in pattern.split(",", MOST_PAIRS)] if pattern else []
    found = {each[1]: int(each[2]) for each in pairs if each is not None}
    if len(found) < len(pairs):
        raise UsageError(f"rank_pattern cannot be {pattern[:80]!r}.", "Give names and ranks: q_proj=16,down_proj=4.")
    if any(part.isdecimal() for name in found for part in name.split(".")):
        raise UsageError("Ranks of single layers are not played: equal layers are one.", "Name maps of all layers.")
    return found


def rank_at(path: str, job: TrainJob) -> Size:
    """Return the rank of a map's adapter."""
    return next((rank for name, rank in parsed(job.rank_pattern).items() if matches(path, (name,))), job.rank)


def check_names(model: Model, job: TrainJob) -> None:
    """Refuse a name that no map of the model has, which PEFT passes by in silence."""
    paths: list[str] = []

    def note(path: str, part: Part) -> Part:
        if isinstance(part, Block):
            paths.append(path)
        return part

    pattern = parsed(job.rank_pattern)
    for path, part in model.parts.items() if pattern else ():
        rewritten(part, note, path)
    for name in pattern:
        if not any(matches(path, (name,)) for path in paths):
            known = {path.rpartition(".")[2] for path in paths} - {"*", ""}
            raise UsageError(f"The model has no map {name[:80]!r} to give a rank.", close_matches(name, known))
