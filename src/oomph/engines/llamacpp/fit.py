"""What `llama-server --fit on` makes of a model that is too large: a shorter context, fewer layers or parts of them.

It loads the model without memory as often as it needs to, reads what each device would hold, and stops where so much
is left as --fit-target says. What the command names is left alone: a context that was asked for stays, and layers that
were asked for end the search. Source: common/fit.cpp (common_params_fit_impl) of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from oomph.engines.llamacpp.compute import buffers
from oomph.engines.llamacpp.job import EXPERTS
from oomph.engines.llamacpp.kv import CELLS, window
from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.engines.llamacpp.served import Served

HOST = -1
# What of a layer does not go where the layer goes (common_layer_fraction_t): all of the feed-forward layer, all but its
# first map, its last map, the experts.
ATTENTION, UP, GATE, DENSE = (
    r"ffn_(gate|up|gate_up|down).*", r"ffn_(gate|gate_up|down).*", r"ffn_down.*", EXPERTS.removeprefix(r"\."),
)  # fmt: skip
# Layers and tensors that a device's part of a model is taken to waste, in parts of one: half, and half of a third.
WASTE, WASTE_OF_EXPERTS = 2, 6
OPEN = (None, "auto", -1, "-1")  # -ngl where it says nothing


@dataclass(frozen=True)
class Part:
    """A device's layers: `layers` in all, the last `partial` of them without their experts, the first of those without
    what `without` says, which goes to `beside`."""

    layers: int = 0
    partial: int = 0
    without: str = DENSE
    beside: int = HOST

    @property
    def full(self) -> int:
        """Layers that are there whole."""
        return self.layers - self.partial


Parts = tuple[Part, ...]


def fitted(served: Served, free: Sequence[int], draft: Served | None = None) -> Served:
    """Return the model as it is started on GPUs with so many bytes free, of which a draft takes its own.

    Raises UnsupportedError where the graph of a model is not known.
    """
    for each in (served, draft):
        if each is not None and each.question is None:
            raise UnsupportedError(
                f"What --fit arrives at for {each.sizes.arch} is not known: its compute buffers are not.",
                "Say -ngl and -c instead.",
            )
    job = served.job
    margins = job.margins(len(free))
    fit = _Fit(served, [n - margin for n, margin in zip(free, margins, strict=True)], draft)
    used = fit.start()
    if all(n <= target for n, target in zip(used, fit.targets, strict=True)):
        return fit.served
    if sum(used) > sum(fit.targets) and job.ctx_size is None and fit.shorten(used):
        return fit.served
    # What the command says of layers ends the search.
    named = job.gpu_layers not in OPEN or job.patterns or (len(free) > 1 and job.shares)
    return fit.served if named else fit.divided(fit.layers())


@dataclass
class _Fit:
    """A search: the model so far, what of each GPU may be taken, and a draft that follows the model's context."""

    served: Served
    targets: Sequence[int]
    draft: Served | None = None

    @property
    def slots(self) -> int:
        """Slots of the server."""
        return int(self.served.slots(self.served.job.concurrency))

    @property
    def streams(self) -> int:
        """How often the cache has room for the model's context."""
        return 1 if self.served.job.unified else self.slots

    @property
    def n_layer(self) -> int:
        """Layers, without that of the output."""
        return len(self.served.sizes.kept)

    @property
    def experts(self) -> bool:
        """Whether the model is a mixture."""
        return self.served.hparams is not None and self.served.hparams.n_expert_used > 0

    def used(self, served: Served) -> list[int]:
        """Return what a start would take of each GPU."""
        found = self._of_one(served)
        if self.draft is None:
            return found
        draft = replace(self.draft, job=replace(self.draft.job, ctx_size=served.job.ctx_size))
        return [sum(pair) for pair in zip(found, self._of_one(draft), strict=True)]

    def _of_one(self, served: Served) -> list[int]:
        """Return what one model would take."""
        assert served.question is not None
        at = window(served.job.ctx_size or served.sizes.n_ctx_train, self.slots, served.job.unified)
        computed = buffers(replace(served.question, measured=True), at)
        return [
            served.loaded.gpu_bytes.get(gpu, 0) + served.least(gpu, at.cells, self.slots) + computed[gpu]
            for gpu in range(len(self.targets))
        ]

    # The context

    def start(self) -> list[int]:
        """Take the longest context where none was asked for, or -c 0; return what that would take."""
        trained = self.served.sizes.n_ctx_train
        if not self.served.job.ctx_size and not trained:
            raise UnsupportedError("How long a context the model was trained for is not known.", "Give --context.")
        if not self.served.job.ctx_size:
            self.served = self._in(trained * self.streams)
        return self.used(self.served)

    def _in(self, n_ctx: int) -> Served:
        return replace(self.served, job=replace(self.served.job, ctx_size=n_ctx))

    def shorten(self, used: Sequence[int]) -> bool:
        """Take the context that fits, by a straight line from the shortest; tell whether no more is needed."""
        most, least = self.served.job.ctx_size or 0, self.served.job.fit_ctx * self.streams
        if most <= least:
            return False
        target, gpus = sum(self.targets), len(self.targets)
        if gpus > 1:
            models = [each for each in (self.served, self.draft) if each is not None]
            of_layer = sum(sum(each.loaded.gpu_bytes.values()) for each in models) // self.n_layer
            target -= (gpus + 1) * of_layer // (WASTE_OF_EXPERTS if self.experts else WASTE)
        self.served = self._in(least)
        of_least = sum(self.used(self.served))
        if target <= of_least:
            return False
        n_ctx = least + (most - least) * (target - of_least) // (sum(used) - of_least)
        self.served = self._in(max(n_ctx - n_ctx % (CELLS * self.streams), least))
        return gpus == 1

    # The layers

    def divided(self, parts: Parts) -> Served:
        """Return the model with its layers so."""
        overrides, il = [], self.n_layer + 1 - sum(part.layers for part in parts)
        for part in parts:
            il += part.full
            for at in range(part.partial):
                without, beside = (part.without, part.beside) if at == 0 else (DENSE, HOST)
                overrides.append((rf"blk\.{il + at}\.{without}", beside))
            il += part.partial
        shares = tuple(float(part.layers) for part in parts) if len(parts) > 1 else self.served.shares
        job = replace(self.served.job, gpu_layers=sum(part.layers for part in parts))
        return replace(self.served, job=job, shares=shares, overrides=tuple(overrides))

    def memory(self, parts: Parts) -> list[int]:
        """Return what each GPU would hold."""
        return self.used(self.divided(parts))

    def layers(self) -> Parts:
        """Return what fits: layers from the last to the first, without experts; then whole ones from the first on."""
        gpus = len(self.targets)
        parts: Parts = (Part(),) * gpus
        memory = self.memory(parts)
        for gpu in reversed(range(gpus)):
            parts, memory = self._back_to_front(gpu, parts, memory)
        if self.experts:
            without = replace(self.served, overrides=((rf"blk\.\d+\.{DENSE}", HOST),))
            if sum(self.targets) > sum(self.used(without)):
                return self._front_to_back(parts, memory)
        return parts

    def _back_to_front(self, gpu: int, parts: Parts, memory: list[int]) -> tuple[Parts, list[int]]:
        """Give a GPU as many of the layers that are left as fit; the output layer, the last, has no experts."""
        last = gpu == len(parts) - 1

        def more(parts: Parts, count: int) -> Parts:
            mine = parts[gpu]
            partial = count - (last and not mine.partial) if self.experts else 0
            return _with(parts, gpu, replace(mine, layers=mine.layers + count, partial=mine.partial + partial))

        left = self.n_layer + 1 - sum(part.layers for part in parts[gpu + 1 :])
        if not left:
            return parts, memory
        low, memory, _ = self._between(gpu, left, parts, memory, more(parts, left), more)
        return low, memory

    def _front_to_back(self, parts: Parts, memory: list[int]) -> Parts:
        """Make layers whole on the first GPU that has room, then on the next; last try a part of one more."""
        last = len(parts) - 1
        first = next((gpu for gpu in range(len(parts)) if all(part.layers for part in parts[gpu:])), last)
        gpu = 0
        while gpu <= first <= last:
            high = parts
            for other in range(first, last + 1):
                moved = high[other].layers - (other == last)
                high = _with(high, gpu, replace(high[gpu], layers=high[gpu].layers + moved))
                high = _with(high, other, replace(high[other], layers=high[other].layers - moved, partial=0))
            delta = high[gpu].full - parts[gpu].full
            whole = partial(_made_whole, gpu=gpu, first=first)
            parts, memory, all_of_it = self._between(gpu, delta, parts, memory, high, whole)
            first = last if all_of_it else _first_partial(parts, first)
            if first <= last and parts[first].layers > (gpu == last):
                parts, memory, first = self._part_of_one_more(gpu, first, parts, memory)
            gpu += 1
        return parts

    def _part_of_one_more(self, gpu: int, first: int, parts: Parts, memory: list[int]) -> tuple[Parts, list[int], int]:
        """Give a GPU one layer more without some of its maps, which go to the next GPU or to the host."""
        found, last = (parts, memory, first), len(parts) - 1
        tried = _with(
            parts, first, replace(parts[first], layers=parts[first].layers - 1, partial=parts[first].partial - 1)
        )
        after = first + (tried[first].partial == 0)
        mine = replace(tried[gpu], layers=tried[gpu].layers + 1, partial=tried[gpu].partial + 1)
        mine = replace(mine, beside=HOST if gpu == last else gpu + 1)
        for without in (UP, GATE):
            test = _with(tried, gpu, replace(mine, without=without))
            of_test = self.memory(test)
            if not self._below(of_test, gpu):
                break
            found = test, of_test, after
        if found[0] is parts:
            test = _with(tried, gpu, replace(mine, without=ATTENTION))
            of_test = self.memory(test)
            if self._below(of_test, gpu):
                found = test, of_test, after
        return found

    def _below(self, memory: Sequence[int], gpu: int) -> bool:
        return all(n < target for n, target in list(zip(memory, self.targets, strict=True))[gpu : gpu + 2])

    def _between(
        self, gpu: int, delta: int, low: Parts, memory: list[int], high: Parts, more: Callable[[Parts, int], Parts]
    ) -> tuple[Parts, list[int], bool]:
        """Return the most that fits of `delta` layers between two, found by false position; whether it is the upper."""
        of_high = self.memory(high)
        if of_high[gpu] <= self.targets[gpu]:
            return high, of_high, True
        while delta > 1 and of_high[gpu] != memory[gpu]:
            room, span = self.targets[gpu] - memory[gpu], of_high[gpu] - memory[gpu]
            # As C divides, and a number without a sign: what is below 0 is large.
            step = delta * room // span if room * span >= 0 else delta if delta * abs(room) >= abs(span) else 0
            step = min(max(step, 1), delta - 1)
            tried = more(low, step)
            of_tried = self.memory(tried)
            if of_tried[gpu] <= self.targets[gpu]:
                low, memory, delta = tried, of_tried, delta - step
            else:
                of_high, delta = of_tried, step
        return low, memory, False


def _with(parts: Parts, gpu: int, part: Part) -> Parts:
    return (*parts[:gpu], part, *parts[gpu + 1 :])


def _made_whole(parts: Parts, count: int, gpu: int, first: int) -> Parts:
    """Return a GPU with `count` layers more that are whole, of those that are not on GPUs from `first` on."""
    for other in range(first, len(parts)):
        some = min(count, parts[other].partial)
        count -= some
        theirs = parts[other]
        parts = _with(parts, other, replace(theirs, layers=theirs.layers - some, partial=theirs.partial - some))
        parts = _with(parts, gpu, replace(parts[gpu], layers=parts[gpu].layers + some))
        if parts[other].partial > 0:
            break
    return parts


def _first_partial(parts: Parts, first: int) -> int:
    """Return the first GPU from one on whose layers are not all whole."""
    return next((gpu for gpu in range(first, len(parts)) if parts[gpu].partial > 0), len(parts))
