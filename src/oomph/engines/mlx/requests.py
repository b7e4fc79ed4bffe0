"""What requests take in mlx-lm: their caches, and the arrays of kernels that are not done yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from oomph import weigh
from oomph.blocks.base import Block
from oomph.blocks.cached import TokenCache
from oomph.caches import LayerCache, layer_caches
from oomph.engines.mlx.caches import STEP, Kept, item_bytes, sequence_bytes
from oomph.engines.mlx.families import WINDOWED
from oomph.engines.mlx.job import WITHOUT_LOGITS, MlxJob, release
from oomph.engines.mlx.operations import Map, Op, Pass, block_maps, layer_operations
from oomph.engines.mlx.stream import PAGE, InFlight, Limits, in_flight
from oomph.formats.linear import OUTSIDE_DECODER
from oomph.ledger import Item
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.formats.base import Format
    from oomph.model import Model

SOURCE = "mlx-lm 0.32.2, mlx 0.32.4"


@dataclass(frozen=True, eq=False)
class Served:
    """A model in a format, as mlx-lm loads it: what any job of it needs."""

    weights: tuple[Item, ...]
    caches: tuple[LayerCache, ...]
    layers: tuple[Callable[[Pass], Sequence[Op]], ...]
    hidden: int
    vocab: int
    windowed: bool
    item: int

    @property
    def weights_bytes(self) -> int:
        """All of them."""
        return sum(each.n_bytes for each in self.weights)


@lru_cache(maxsize=32)
def served_as(model: Model, fmt: Format) -> Served:
    """Return a text model in a format: mlx-lm drops towers, projectors and multi-token prediction when it loads."""
    items = [each for each in weigh.in_format(model, fmt).items if each.kind not in OUTSIDE_DECODER]
    stack = decoder_stack(model)[1].layers
    # Layers whose blocks and matrices are equal have one builder, so that a pass builds their operations once.
    builders: dict[tuple[tuple[Block, tuple[Map, ...]], ...], Callable[[Pass], Sequence[Op]]] = {}
    layers = tuple(
        builders.setdefault(maps, partial(layer_operations, maps, model.hidden_size))
        for maps in (block_maps(layer, fmt, model) for layer in stack if isinstance(layer, Block))
    )
    windowed = model.decoder_type in WINDOWED
    return Served(
        _rounded(items),
        layer_caches(model),
        layers,
        model.hidden_size,
        model.vocab_size,
        windowed,
        item_bytes(fmt.rest),
    )


def _rounded(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return items whose upper bound has a page more for every tensor: an array of more than a page is whole pages."""
    found = []
    for each in items:
        copies = 1
        for axis, size in each.axes:
            copies *= size if axis in ("layers", "tensors") else 1
        found.append(replace(each, safe=each.n_bytes + PAGE * copies))
    return tuple(found)


@lru_cache(maxsize=4096)
def on_their_way(served: Served, at: Pass, limits: Limits) -> InFlight:
    """Return what kernels hold while tokens pass through the model."""
    layers = {key: build(at) for key, build in {id(each): each for each in served.layers}.items()}
    start = at.rows * served.hidden
    last = (Op(("x",), "n", start), Op(("n",), "logits", at.rows * served.vocab, served.hidden * served.vocab))
    played = [layers[id(build)] for build in served.layers]
    return in_flight(played, start, served.item, limits, last if at.logits else ())


class End(NamedTuple):
    """Where requests take most: tokens in the cache before, those that came since, whether in one pass (`kept`); and
    the last pass, of `tokens` after `before`."""

    kept: tuple[int, int, bool]
    tokens: int
    before: int
    logits: bool = False


@dataclass(frozen=True)
class Requests:
    """What requests of a context take: their caches, and kernels on their way while reading or writing."""

    served: Served
    job: MlxJob
    kept: Kept
    limits: Limits

    def needs(self, context: Any, concurrency: Any) -> Any:
        """Return the bytes of so many requests at their largest; of arrays, cell by cell."""
        if isinstance(context, int) and isinstance(concurrency, int):
            return self._worst(context, concurrency)[0]
        import numpy as np  # the amounts are arrays of it, so that it is here

        contexts, requests = np.broadcast_arrays(context, concurrency)
        found = np.zeros(contexts.shape, np.int64)
        for each in np.unique(contexts).tolist():
            cells = contexts == each
            found[cells] = self._of_context(each, requests[cells])
        return found

    def _of_context(self, context: int, requests: Any) -> Any:
        """Return the bytes of arrays of requests of one context."""
        import numpy as np

        found = np.zeros(requests.shape, np.int64)
        for end in self._ends(context):
            kernels = [self._kernels(end, each).n_bytes for each in requests.tolist()]
            found = np.maximum(found, self.cache_bytes(*end.kept) * requests + np.array(kernels, np.int64))
        return found

    def held(self, context: int, concurrency: int) -> tuple[Item, ...]:
        """Return the same as items."""
        _, (before, more, reading), kernels = self._worst(context, concurrency)
        items = []
        for cache in self.served.caches:
            for cached in cache.cached:
                each = sequence_bytes(cached, self.kept, self.served.windowed, before, more, reading)
                tokens = isinstance(cached, TokenCache)
                name, group = ("keys and values", "kv_cache") if tokens else ("states", "state")
                axes = (("layers", len(cache.layers)), ("sequences", concurrency))
                total = int(each) * len(cache.layers) * concurrency
                items.append(Item(name, group, total, axes=axes, source="rule", evidence=SOURCE))
        passing = "read" if reading else "written"
        items.append(
            Item(f"arrays of kernels on their way, last tokens {passing}", "activations", kernels.n_bytes,
                 source="rule", evidence="mlx 0.32.4 transforms.cpp, backend/metal/eval.cpp")
        )  # fmt: skip
        return tuple(items)

    def _worst(self, context: int, concurrency: int) -> tuple[int, tuple[int, int, bool], InFlight]:
        """Return bytes, tokens and kernels of the end of reading or of writing, whichever takes more."""
        found = []
        for end in self._ends(context):
            kernels = self._kernels(end, concurrency)
            found.append((self.cache_bytes(*end.kept) * concurrency + kernels.n_bytes, end.kept, kernels))
        return max(found, key=lambda each: each[0])

    def _ends(self, context: int) -> list[End]:
        """Return the ends of writing and of reading."""
        prompt = min(context, self.job.prompt or context)
        old = release(self.job) < WITHOUT_LOGITS
        read, step = max(0, prompt - (not old)), self.job.prefill_step_size
        before = max(0, read - 1) // step * step
        ends = [End((read, context - read, False), 1, _steps(context - 1))]
        if read:
            kept = before, read - before, True
            ends.append(End(kept, min(step, read), before))
            if old:
                ends.append(End(kept, read - before, before, logits=True))
        return ends

    def _kernels(self, end: End, concurrency: int) -> InFlight:
        """Return what kernels hold at an end."""
        at_once = min(concurrency, self.job.prompt_concurrency) if end.kept[2] else concurrency
        at = self._pass(end.tokens, end.before, at_once)
        return on_their_way(self.served, at._replace(logits=True) if end.logits else at, self.limits)

    @property
    def full_pass(self) -> Pass:
        """The first tokens of a long prompt."""
        return self._pass(self.job.prefill_step_size, 0, 1)

    def _pass(self, tokens: int, before: int, sequences: int) -> Pass:
        quantised = self.kept.bits is not None and before >= self.kept.start
        return Pass(tokens, before, sequences, quantised, self.served.windowed)

    def cache_bytes(self, before: int, more: int, reading: bool = False) -> int:
        """Return the bytes of one sequence's caches when `more` tokens have come to those `before`."""
        served = self.served
        return sum(
            len(cache.layers) * int(sequence_bytes(cached, self.kept, served.windowed, before, more, reading))
            for cache in served.caches
            for cached in cache.cached
        )


def _steps(tokens: int) -> int:
    """Return a number of tokens a little larger, so that few are told apart: 2048 or the step of a cache."""
    coarse = STEP if tokens < STEP * 8 else STEP * 8
    return -(-tokens // coarse) * coarse
