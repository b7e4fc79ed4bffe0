"""From the events of few layers to those of many: what fold.py does for heights, for every event in its place.
Turns of a loop over tokens are told from few in the same way.

A job is played with few layers and with two periods more. Where the deeper play does what the other one does not, that
must be twice the same and follow the same once more: it is what a deeper model repeats. Ordinals are others in every
repetition, so a free is written as which tensor of its class it ends, counted from the newest or from the oldest one
alive. What does not fit this pattern is played in full.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from oomph.fold import LAYER, Classes, Unfoldable
from oomph.played import Played

PERIODS = 2  # that the deeper play has more: what comes twice is told from what only begins alike
Name: TypeAlias = "int | str"
Place: TypeAlias = tuple[int, int]


class Spelled(NamedTuple):
    """A played job's events and marks without what differs between repetitions.

    A name is the class of an allocation, its complement for a free, or a mark with a * for the layer's number. A place
    is where a freed tensor stands among those of its class, from the oldest (0, 1 ...) and from the newest (-1, -2
    ...), or twice the number of a mark's layer.
    """

    names: list[Name]
    places: list[Place]


class Piece(NamedTuple):
    """What the deeper play does from `more` to `end`: what the other one does from `few` on, or what is `repeated`
    twice more before that."""

    few: int
    more: int
    end: int
    repeated: bool


class Events(NamedTuple):
    """A job as its recorder would have it: events, the class of each allocation, marks."""

    events: list[int]
    kinds: list[int]
    marks: list[tuple[int, str]]


def events_of(played: Played, classes: Classes) -> Events:
    """Return a played job's events up to its end."""
    return Events(played.recorder.events[: played.end], classes.of(played.recorder), played.recorder.marks)


def spelled(played: Events) -> Spelled:
    """Return events and marks without what differs between repetitions."""
    events, kinds, marks = played
    alive: defaultdict[int, list[int]] = defaultdict(list)
    found, next_mark = Spelled([], []), 0
    for position in range(len(events) + 1):
        while next_mark < len(marks) and marks[next_mark][0] == position:
            _spell_mark(marks[next_mark][1], found)
            next_mark += 1
        if position == len(events):
            break
        event = events[position]
        if event >= 0:
            alive[kinds[event]].append(event)
            found.names.append(kinds[event])
            found.places.append((0, 0))
        else:
            same = alive[kinds[~event]]
            place = len(same) - 1 if same[-1] == ~event else same.index(~event)  # the newest of many is found at once
            found.names.append(~kinds[~event])
            found.places.append((place, place - len(same)))
            del same[place]
    return found


def _spell_mark(name: str, found: Spelled) -> None:
    layer = LAYER.fullmatch(name)
    found.names.append(f"layer * {layer[2]}" if layer else name)
    found.places.append((int(layer[1]), int(layer[1])) if layer else (0, 0))


def deeper(few: Spelled, more: Spelled, times: int) -> Events:
    """Return the events of a job that is `times` periods deeper than `few`; raises Unfoldable."""
    found, alive = Events([], [], []), defaultdict[int, list[int]](list)
    for piece in _pieces(few, more):
        names, places = more.names[piece.more : piece.end], more.places[piece.more : piece.end]
        if piece.repeated:
            length = len(names) // PERIODS
            before = few.places[piece.few - length : piece.few]
            rows: Iterable[list[int]] = _repeated(names[:length], before, places[:length], places[length:], times)
        else:
            rows = [_once(names, few.places[piece.few : piece.few + len(names)], places, times)]
        for row in rows:
            _play(names, row, found, alive)
    return found


def _play(names: list[Name], places: list[int], found: Events, alive: dict[int, list[int]]) -> None:
    """Add events and marks; a place is that of a freed tensor in a list of those alive, or the number of a layer."""
    events, kinds, marks = found
    for name, place in zip(names, places, strict=False):
        if isinstance(name, str):
            marks.append((len(events), name.replace("*", str(place))))
        elif name >= 0:
            alive[name].append(len(kinds))
            events.append(len(kinds))
            kinds.append(name)
        else:
            events.append(~alive[~name].pop(place))


def _once(names: list[Name], few: list[Place], more: list[Place], times: int) -> list[int]:
    """Return the places of what every depth does once, from those in two depths."""
    return [
        a[0] + (b[0] - a[0]) // PERIODS * times if isinstance(name, str) else _place(a, b)
        for name, a, b in zip(names, few, more, strict=True)
    ]


def _repeated(
    names: list[Name], before: list[Place], first: list[Place], second: list[Place], times: int
) -> Iterator[list[int]]:
    """Yield the places in every repetition, from those in two and, of the shallower play, in the one before them.

    Layers are counted up, or down as in a backward pass.
    """
    seen = zip(names, before, first, second, strict=True)
    steps = [b[0] - a[0] for a, b in zip(first, second, strict=True)]
    frees = [0 if isinstance(name, str) else _place(*each) for name, *each in seen]
    marks = [(at, first[at][0], steps[at]) for at, name in enumerate(names) if isinstance(name, str)]
    for repetition in range(times):
        for at, number, step in marks:
            frees[at] = number + step * repetition - min(step, 0) * (times - PERIODS)
        yield frees


def _place(*seen: Place) -> int:
    """Return a place that is always the same, counted from the newest tensor or else from the oldest."""
    for side in (-1, 0):
        if len({place[side] for place in seen}) == 1:
            return seen[0][side]
    raise Unfoldable


def _pieces(few: Spelled, more: Spelled) -> list[Piece]:
    """Return what two plays have in common, and between that what the deeper one repeats twice more."""
    pieces: list[Piece] = []
    at, here = 0, 0  # in few, in more
    while True:
        same = _alike(few, at, more, here)
        pieces.append(Piece(at, here, here + same, False))
        at, here = at + same, here + same
        if here == len(more.names):
            if at < len(few.names):
                raise Unfoldable
            return pieces
        length = _period(few.names, at, more.names, here)
        pieces.append(Piece(at, here, here + PERIODS * length, True))
        here += PERIODS * length


def _alike(few: Spelled, at: int, more: Spelled, here: int) -> int:
    """Return for how long two plays go on alike, and free what stands in one place in both."""
    same = 0
    for a, b, place, other in zip(few.names[at:], more.names[here:], few.places[at:], more.places[here:], strict=False):
        if a != b or (place[0] != other[0] and place[1] != other[1] and not isinstance(a, str)):
            break
        same += 1
    return same


def _period(few: list[Name], at: int, more: list[Name], here: int) -> int:
    """Return the length of what comes twice more, here, after it came once."""
    following = few[at] if at < len(few) else None
    most = ((len(more) - here) - (len(few) - at)) // PERIODS
    for length in range(1, min(most, at, here) + 1):
        end = here + PERIODS * length
        if (more[end] if end < len(more) else None) != following or more[here] != more[here - length]:
            continue
        if more[here - length : end - length] == more[here:end]:
            return length
    raise Unfoldable
