"""A model with a job in llama.cpp: everything that does not depend on what requests ask for, made once.

What requests take is worked out here, in bytes of each device: caches, states, compute buffers, logits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from oomph.engines.llamacpp.builds import all_outputs, build_of
from oomph.engines.llamacpp.compute import Question, between, buffers
from oomph.engines.llamacpp.file import File, FileTensor, file_of
from oomph.engines.llamacpp.graph import GRAPHS
from oomph.engines.llamacpp.graph_setup import Hparams
from oomph.engines.llamacpp.hparams import hparams_of, hparams_of_file
from oomph.engines.llamacpp.job import AUTO_SLOTS, LlamaCppJob
from oomph.engines.llamacpp.kv import CacheRules, LayerBytes, Window, kv_layers, kv_of, kv_on_gpu, states_of, window
from oomph.engines.llamacpp.placing import Loaded, Overrides, Placement, load, place
from oomph.engines.llamacpp.sizes import Kept, Sizes, of_header, of_model
from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.answer import Subject

Amount = Any  # an int or a numpy array of them

SOURCE = "llama.cpp 0c1e57098"
LOGIT = 4  # bytes: the output buffer is F32
_KNOWN: WeakKeyDictionary[Any, dict[str | None, Known]] = WeakKeyDictionary()


class Known(NamedTuple):
    """A model as a file: its tensors, its numbers, and those its graph is built from, None where there is no graph."""

    file: File
    sizes: Sizes
    hparams: Hparams | None


def known(found: Subject, stored: str | None) -> Known:
    """Return what is known of a model in a format, made once for each."""
    of_format = _KNOWN.setdefault(found.model, {})
    if stored not in of_format:
        file = file_of(found, stored)
        header = found.source.header
        header = header if header is not None and header.kind == "gguf" else None
        sizes = of_header(header, file.layers) if header else of_model(found.model)
        hparams = None
        if sizes.arch in GRAPHS and header:
            hparams = hparams_of_file(header, sizes, file.layers)
        elif sizes.arch in GRAPHS:
            hparams = hparams_of(found.model, sizes.arch)
        of_format[stored] = Known(file, sizes, hparams)
    return of_format[stored]


class Parts(NamedTuple):
    """What requests take on a device, in bytes: keys and values, recurrent states, the compute buffer, logits."""

    kv: Amount
    states: Amount
    compute: Amount
    logits: Amount


@dataclass(frozen=True)
class Served:
    """A model with a job on so many GPUs; everything that does not depend on what requests ask for is made once.

    `overrides` are patterns of tensors and their devices, before those of the job; `adapters` their matrices and
    devices. `output_first` is `place`'s. `present`: the GPUs are there although no layer may be on them, and help with
    large batches; else no layer on them means that there is none.
    """

    file: File
    sizes: Sizes
    hparams: Hparams | None
    job: LlamaCppJob
    shares: tuple[float, ...]
    output_first: bool = True
    present: bool = True
    overrides: tuple[tuple[str, int], ...] = ()
    adapters: tuple[tuple[FileTensor, int], ...] = ()

    @cached_property
    def rules(self) -> CacheRules:
        """How keys and values are kept."""
        job = self.job
        n_ubatch = min(job.ubatch_size or job.batch_size, job.batch_size)
        return CacheRules(*job.types, job.flash, job.unified, job.swa_full, n_ubatch)

    @cached_property
    def loaded(self) -> Loaded:
        """Where weights lie."""
        return load(self.file, self.placed, self._overrides, len(self.sizes.kept))

    @cached_property
    def _overrides(self) -> Overrides:
        here = tuple((re.compile(pattern), device) for pattern, device in self.overrides)
        return here + tuple((pattern, -1) for pattern in self.job.patterns)

    @cached_property
    def placed(self) -> Placement:
        """The device of each layer, and thus of its cache."""
        layers = max(self.file.layers, len(self.sizes.kept))
        return place(layers, self.job.layers_asked, self.shares, self.output_first)

    @cached_property
    def question(self) -> Question | None:
        """What the compute buffers are asked for, in no context yet; None where there is no graph of the model.

        Nor is there one of states that lie with the host while their layers do not.
        """
        recurrent = any(each.r or each.s for each in self.sizes.kept)
        if self.hparams is None or (recurrent and not self.job.kv_offload):
            return None
        used = self.present or max(self.placed.output, *self.placed.layers) >= 0
        job, gpus = self.job, len(self.shares) if used else 0
        all_there = min(self.placed.layers) >= 0 and self.placed.output >= 0
        return Question(
            loaded=self.loaded, sizes=self.sizes, hparams=self.hparams, rules=self.rules,
            gpus=gpus, layers=self.placed.layers, output=self.placed.output, kv_offload=job.kv_offload,
            op_offload=job.op_offload, pipeline=gpus > 1 and all_there and job.kv_offload and not self._overrides,
            all_outputs=all_outputs(job.build), outputs=1 + job.guessed, n_batch=job.batch_size,
            adapters=() if job.lora_later else self.adapters, build=build_of(job.build),
        )  # fmt: skip

    def device(self, layer: int) -> int:
        """Return where a layer's cache lies."""
        return self.placed.layers[layer] if self.job.kv_offload else -1

    def slots(self, concurrency: Amount) -> Amount:
        """Return the slots of a server that takes so many requests at a time."""
        if self.job.slots is not None:
            return self.job.slots + 0 * concurrency
        return concurrency + (AUTO_SLOTS - concurrency) * (concurrency < AUTO_SLOTS)

    def window(self, context: Amount, concurrency: Amount) -> Window:
        """Return the context of a server that has room for such requests, or that it is told to have."""
        slots = self.slots(concurrency)
        if self.job.ctx_size is not None:
            asked = (self.job.ctx_size or self.sizes.n_ctx_train) + 0 * (context * concurrency)
        elif self.job.unified:
            asked = context * concurrency
        else:
            asked = context * slots
        return window(asked, slots, self.job.unified)

    def kv(self, at: Window) -> list[LayerBytes]:
        """Return what each layer's keys and values take."""
        return list(kv_layers(self.sizes, self.rules, at))

    def kv_bytes(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return what keys and values take on a device."""
        alike = self._alike.get(device, {})
        mine = kv_of(self.sizes, self.rules, self.window(context, concurrency), alike)
        if device >= 0:
            found = sum(alike[each.layer] * kv_on_gpu(self.sizes, self.rules, each) for each in mine)
        else:
            found = sum(alike[each.layer] * (each.k + each.v) for each in mine)
        return found + 0 * (context * concurrency)

    @cached_property
    def _alike(self) -> Mapping[int, Mapping[int, int]]:
        """Return for each device one of the layers that keep the same, and how many such there are."""
        first: dict[tuple[int, Any], int] = {}
        found: dict[int, dict[int, int]] = {}
        for layer, kept in enumerate(self.sizes.kept):
            if kept.k:
                device = self.device(layer)
                at = first.setdefault((device, kept), layer)
                of_device = found.setdefault(device, {})
                of_device[at] = of_device.get(at, 0) + 1
        return found

    def state_bytes(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return what recurrent layers keep on a device."""
        found = states_of(self.recurrent.get(device, {}), self.slots(concurrency), device >= 0)
        return found + 0 * (context * concurrency)

    @cached_property
    def recurrent(self) -> Mapping[int, Mapping[Kept, int]]:
        """Return for each device what its recurrent layers keep, and how many keep that."""
        found: dict[int, dict[Kept, int]] = {}
        for layer, kept in enumerate(self.sizes.kept):
            if kept.r or kept.s:
                of_device = found.setdefault(self.device(layer), {})
                of_device[kept] = of_device.get(kept, 0) + 1
        return found

    def computed(self, at: Window) -> Mapping[int, int]:
        """Return the compute buffer of each GPU, and of the host (-1), in a context; {} where there is no graph."""
        return buffers(self.question, at) if self.question is not None else {}

    def compute_bytes(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return the compute buffer of a device; 0 where there is no graph of the model."""
        asked = self.question
        if asked is None or device >= asked.gpus:
            return 0 * (context * concurrency)
        at = self.window(context, concurrency)
        return between(asked, device, at.n_ctx, at.slots)

    def output_bytes(self, context: Amount, concurrency: Amount) -> Amount:
        """Return the host's buffer of logits: a row for each slot."""
        return self.slots(concurrency) * self.sizes.n_vocab * LOGIT + 0 * context

    def parts(self, device: int, context: Amount, concurrency: Amount) -> Parts:
        """Return what requests take on a device; of whole numbers kept, since needs, items and verdict ask for it."""
        asked = device, context, concurrency
        if not isinstance(context, int) or not isinstance(concurrency, int):
            return self._parts(*asked)
        if asked not in self._known:
            self._known[asked] = self._parts(*asked)
        return self._known[asked]

    @cached_property
    def _known(self) -> dict[tuple[int, int, int], Parts]:
        return {}

    def _parts(self, *asked: Any) -> Parts:
        logits = self.output_bytes(*asked[1:]) if asked[0] < 0 else 0
        return Parts(self.kv_bytes(*asked), self.state_bytes(*asked), self.compute_bytes(*asked), logits)

    def needs(self, device: int, context: Amount, concurrency: Amount) -> Amount:
        """Return what requests take on a device; of the host the logits are among it."""
        return sum(self.parts(device, context, concurrency))

    def least(self, device: int, context: int, concurrency: int) -> int:
        """Return what requests take on a device besides its compute buffer."""
        return int(self.kv_bytes(device, context, concurrency) + self.state_bytes(device, context, concurrency))

    def held(self, device: int, context: int, concurrency: int) -> tuple[Item, ...]:
        """Return the same as items."""
        kv, rs, computed, logits = map(int, self.parts(device, context, concurrency))
        items = (
            Item("keys and values", "kv_cache", kv, source="rule", evidence=f"{SOURCE}: llama-kv-cache.cpp"),
            Item("recurrent states", "state", rs, source="rule", evidence=f"{SOURCE}: F32"),
            Item("compute buffer", "temporaries", computed, source="rule", evidence=f"{SOURCE}: the graph, played"),
            Item("logits", "buffers", logits, source="rule", evidence=f"{SOURCE}: output_reserve"),
        )
        return tuple(item for item in items if item.n_bytes)
