"""What an engine is: the flags it takes, and what a model served by it holds on each device.

An engine answers in two parts. What is there whatever is asked (weights, buffers, workspaces, what the engine puts
aside) are items. What requests take is left open as functions of their context and number, which work on ints as well
as on numpy arrays, so that the largest context, or a map of both, costs no more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from oomph.ledger import Item, Printed

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

Amount = Any  # an int or a numpy array of them
TOGETHER = "tokens"


def flag(default: Any, *names: str, help: str = "", adds: bool = False, alone: str | None = None) -> Any:
    """Return a dataclass field that the engine's command line spells `names`, the first of them preferred.

    A switch may have a second name that turns it off, behind a slash: "-kvo/-nkvo"; of a long one it is --no-... where
    none is given. A name in capital letters is that of an environment variable. `adds`: said again, it adds to what was
    said before, behind a comma. `alone` is what a flag says that stands there without a value.
    """
    return field(default=default, metadata={"flags": names, "help": help, "adds": adds, "alone": alone})


@dataclass(frozen=True)
class ServeJob:
    """What an engine is asked for. Subclasses add the engine's own flags as fields, made by `flag`.

    `context`: tokens of one request, read and written together; None is what the engine takes by itself, which is never
    assumed in silence. `concurrency`: requests of that length at a time. `format`: how weights are stored, None as they
    are published. `version` of the engine, "" the newest that is known here.
    """

    context: int | None = None
    concurrency: int = 1
    format: str | None = None
    version: str = ""

    @property
    def ranks(self) -> int:
        """How many devices the flags ask for; 1 for an engine that takes those it is given."""
        return 1

    def with_context(self, tokens: int) -> ServeJob:
        """Return the job with requests so long, and no other flag that says how long they may be."""
        return replace(self, context=tokens)


@dataclass(frozen=True)
class Share:
    """What one device holds, or each of `count` equal ones. Item bytes are of one device.

    `room_bytes` is what the engine leaves there for requests, None on an unknown device. `needs` are the bytes that
    requests of a context and a concurrency take of that room, `held` the same as items. An engine that takes the whole
    room at its start, whatever is asked, has a `pool`: what of it no request needs is an item too. `safe_room` is what
    is left at least where that is not the room less what the items may take more, as of a room of a fixed size.
    `least` is what of the needs is quick to work out, where not all of them are.
    """

    name: str
    items: tuple[Item, ...]
    needs: Callable[[Amount, Amount], Amount]
    held: Callable[[int, int], tuple[Item, ...]]
    room_bytes: int | None = None
    capacity_bytes: int | None = None
    pool: bool = False
    count: int = 1
    safe_room: int | None = None
    least: Callable[[int, int], int] | None = None

    @property
    def safe_room_bytes(self) -> int:
        """What is left for requests at least: what is not known exactly is counted at its largest."""
        if self.safe_room is not None:
            return self.safe_room
        return (self.room_bytes or 0) - sum(item.safe_bytes - item.n_bytes for item in self.items)

    def surely_full(self, context: int, concurrency: int) -> bool:
        """Say whether requests do not fit by what is quick to work out alone."""
        least = 0 if self.least is None else self.least(context, concurrency)
        return self.room_bytes is not None and least > self.safe_room_bytes

    def fits(self, context: Amount, concurrency: Amount) -> Any:
        """Say whether requests fit in the least room there is; of arrays, where. Only for a share with a room."""
        assert self.room_bytes is not None
        if isinstance(context, int) and isinstance(concurrency, int) and self.surely_full(context, concurrency):
            return False
        return self.needs(context, concurrency) <= self.safe_room_bytes


def with_items(share: Share, *items: Item) -> Share:
    """Return a share on whose device other things lie too, which leave that much less room."""
    room = None if share.room_bytes is None else share.room_bytes - sum(item.n_bytes for item in items)
    return replace(share, items=(*share.items, *items), room_bytes=room)


@dataclass(frozen=True)
class Limit:
    """The most of something that is served at all, whatever memory there is, and what says so."""

    most: int
    why: str


def asked(context: Amount, concurrency: Amount) -> dict[str, Amount]:
    """Return what there are limits on: tokens of a request, requests at a time, tokens of all of them."""
    return {"context": context, "concurrency": concurrency, TOGETHER: context * concurrency}


class Later(Sequence[Printed]):
    """Lines that are worked out when somebody reads them: a search deploys often and prints once."""

    def __init__(self, make: Callable[[], tuple[Printed, ...]]) -> None:
        self._make = make

    @cached_property
    def _lines(self) -> tuple[Printed, ...]:
        return self._make()

    @overload
    def __getitem__(self, at: int) -> Printed: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Printed, ...]: ...
    def __getitem__(self, at: int | slice) -> Printed | tuple[Printed, ...]:
        """Return a line, or some."""
        return self._lines[at]

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self._lines)


@dataclass(frozen=True)
class Deployment:
    """A model in an engine: its shares of devices, what the engine will print, and what was taken for granted.

    `context` is that of the job, or what the engine takes by itself. `limits` by name, as `asked` has them.
    """

    shares: tuple[Share, ...]
    context: int
    printed: Sequence[Printed] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def fits(self, context: Amount, concurrency: Amount) -> Any:
        """Say whether every device has room for requests, and the engine takes so many; of arrays, where."""
        found = self.within(context, concurrency)
        for share in self.known:
            found = found & share.fits(context, concurrency)
        return found

    def within(self, context: Amount, concurrency: Amount) -> Any:
        """Say whether the engine takes so many requests so long, whatever memory there is; of arrays, where."""
        found = True
        for name, amount in asked(context, concurrency).items():
            if name in self.limits:
                found = found & (amount <= self.limits[name].most)
        return found

    @property
    def known(self) -> tuple[Share, ...]:
        """The shares whose room is known."""
        return tuple(share for share in self.shares if share.room_bytes is not None)


@dataclass(frozen=True)
class Engine:
    """A program that serves: its name, what it is, where its rules are written down, and what it does with a model.

    `job` is the class of its jobs. `starts` are the words a command line of it may begin with, as ("vllm", "serve");
    ("docker", "vllm/vllm-openai") is an image. `deploy(subject, job, devices)` raises UnsupportedError for a model or
    an input that is not modelled; no devices means that they are not known. `command(model, job)` are the words to run
    it with; the model is a repository of the hub for an engine that loads those (`hub`).

    Of its command line: `models` are the flags that name the model, one that ends in ":" a file in it. `harmless` are
    flags and environment variables that move no memory; a name that ends in "=" takes a value, in "=+" several.
    `refused` are those that do and are not modelled, with what they do; of a variable
    one value alone, as "NAME=0". `suffixes` is what a letter behind a number
    stands for, where one may stand there. `formats` are those to advise where weights are too large, the largest first;
    none: the usual ones. `vendors` are those whose devices it runs on as it is modelled; none: all.
    """

    name: str
    title: str
    source: str
    job: type[ServeJob]
    starts: tuple[tuple[str, ...], ...]
    deploy: Callable[[Subject, Any, Sequence[Device]], Deployment]
    command: Callable[[str, Any], list[str]]
    models: tuple[str, ...] = ("--model",)
    harmless: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    suffixes: Mapping[str, int] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    hub: bool = False
    vendors: tuple[str, ...] = ()
