"""A model in llama.cpp's server: what lies on each GPU and with the host, and the lines it logs of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from oomph.constants import measured
from oomph.engines.base import Deployment, Later, Limit, Share
from oomph.engines.llamacpp.builds import all_outputs, build_of
from oomph.engines.llamacpp.compute import Question, between, buffers
from oomph.engines.llamacpp.file import File, file_of
from oomph.engines.llamacpp.graph import GRAPHS
from oomph.engines.llamacpp.graph_setup import Hparams
from oomph.engines.llamacpp.hparams import hparams_of, hparams_of_file
from oomph.engines.llamacpp.job import AUTO_SLOTS, MOST_SLOTS, LlamaCppJob
from oomph.engines.llamacpp.kv import CacheRules, LayerBytes, Window, kv_layers, kv_of, kv_on_gpu, states_of, window
from oomph.engines.llamacpp.placing import Loaded, Placement, load, place
from oomph.engines.llamacpp.sizes import Kept, Sizes, of_header, of_model
from oomph.engines.serving import HOST
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item, Printed
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

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

    `output_first` is `place`'s. `present`: the GPUs are there although no layer may be on them, and help with large
    batches; else no layer on them means that there is none.
    """

    file: File
    sizes: Sizes
    hparams: Hparams | None
    job: LlamaCppJob
    shares: tuple[float, ...]
    output_first: bool = True
    present: bool = True

    @cached_property
    def rules(self) -> CacheRules:
        """How keys and values are kept."""
        job = self.job
        n_ubatch = min(job.ubatch_size or job.batch_size, job.batch_size)
        return CacheRules(*job.types, job.flash, job.unified, job.swa_full, n_ubatch)

    @cached_property
    def loaded(self) -> Loaded:
        """Where weights lie."""
        return load(self.file, self.placed, self.job.patterns, len(self.sizes.kept))

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
            op_offload=job.op_offload, pipeline=gpus > 1 and all_there and job.kv_offload and not job.patterns,
            all_outputs=all_outputs(job.build), build=build_of(job.build),
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


def deploy(found: Subject, job: LlamaCppJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return the model on GPUs and host; raises UnsupportedError for what is not modelled.

    Without devices there is one GPU of unknown size.
    """
    job.check_defaults()
    model = known(found, job.format)
    if model.sizes.latent and job.cache_type_k != job.cache_type_v:
        raise UsageError("Of a latent cache both types must be the same.", "Give -ctk and -ctv one type.")
    used = used_gpus(job, devices)
    served = Served(*model, job, split_of(job, used), present=bool(devices))
    context = context_of(served)
    gpus = [gpu_share(served, at, used[at] if devices else None, len(used)) for at in range(len(used))]
    host = Share(
        HOST, host_items(served), partial(served.needs, -1), partial(served.held, -1)
    )  # fmt: skip
    return Deployment(
        shares=(*gpus, host),
        context=context,
        printed=Later(partial(printed, served, context)),
        limits=limits_of(served),
        assumptions=taken_for_granted(served, context),
        warnings=_warnings(served),
    )


def used_gpus(job: LlamaCppJob, devices: Sequence[Device]) -> Sequence[Any]:
    """Return the GPUs that are used: all, or the one that --split-mode none names."""
    if job.split_mode == "none" and devices:
        if job.main_gpu >= len(devices):
            raise UsageError(
                f"There is no GPU {job.main_gpu} among {len(devices)}.", "They are numbered from 0: -mg 0."
            )
        return devices[job.main_gpu : job.main_gpu + 1]
    return devices or (None,)


def split_of(job: LlamaCppJob, used: Sequence[Any]) -> tuple[float, ...]:
    """Return by what layers are divided among GPUs: what was asked for, else their memory."""
    if len(used) == 1:
        return (1.0,)
    if not job.shares:
        return tuple(float(device.capacity_bytes) for device in used)
    if len(job.shares) > len(used):
        raise UsageError(f"--tensor-split names {len(job.shares)} GPUs of {len(used)}.", "Give one share for each GPU.")
    found = (*job.shares, *[0.0] * (len(used) - len(job.shares)))
    if not any(found):
        raise UsageError("--tensor-split gives no GPU a share.", "Write 3,1.")
    return found


def context_of(served: Served) -> int:
    """Return the tokens of one request: as asked for, else what the server has room for, else the model's."""
    job, trained = served.job, served.sizes.n_ctx_train
    if job.context is not None:
        return job.context
    if job.ctx_size is None:
        if not trained:
            raise UnsupportedError("How long a context the model was trained for is not known.", "Give --context.")
        return trained
    at = served.window(1, job.concurrency)
    return int(at.n_ctx // job.concurrency if job.unified else at.cells)


def limits_of(served: Served) -> dict[str, Limit]:
    """Return the most of what is served at all, and what says so."""
    job = served.job
    slots = (
        Limit(job.slots, f"-np gives {job.slots} slot{'s' * (job.slots > 1)}")
        if job.slots
        else Limit(MOST_SLOTS, "LLAMA_MAX_SEQ")
    )
    found = {"concurrency": slots}
    if job.ctx_size is not None:
        at = served.window(1, 1)
        most = int(at.cells if not job.unified else at.n_ctx // job.concurrency)
        found["context"] = Limit(most, f"-c leaves so many tokens for {_each(job.concurrency)}")
    return found


def _each(requests: int) -> str:
    return f"each of {requests:,} requests" if requests > 1 else "one request"


def gpu_share(served: Served, at: int, device: Device | None, count: int) -> Share:
    """Return what one GPU holds, with what requests take of it left open."""
    weights = served.loaded.gpu_bytes.get(at, 0)
    context = measured("cuda_context", device)
    items = [
        Item("weights", "weights", weights, source="rule", evidence=f"{SOURCE}: load_tensors"),
        Item(
            "CUDA context", "runtime", context.n_bytes, safe=context.high, source="measured", evidence=context.evidence
        ),
    ]
    if not weights and at not in served.placed.layers:
        items = items[1:]
    capacity = device.capacity_bytes if device else None
    fixed = sum(item.n_bytes for item in items)
    return Share(
        name="gpu" if count == 1 else f"gpu {at}",
        items=tuple(items),
        needs=partial(served.needs, at),
        held=partial(served.held, at),
        least=partial(served.least, at),
        room_bytes=None if capacity is None else capacity - fixed,
        capacity_bytes=capacity,
    )


def host_items(served: Served) -> tuple[Item, ...]:
    """Return what lies in the machine's own memory."""
    weights = Item(
        "weights with the host", "weights", served.loaded.host_bytes, source="rule",
        evidence=f"{SOURCE}: mapped from the file" if served.job.mmap else f"{SOURCE}: load_tensors",
    )  # fmt: skip
    if served.job.cache_ram <= 0:
        return (weights,)
    prompts = Item(
        "prompts kept for later", "kv_cache", 0, safe=served.job.cache_ram * MIB, source="rule",
        evidence=f"{SOURCE}: --cache-ram, filled as prompts come",
    )  # fmt: skip
    return weights, prompts


def taken_for_granted(served: Served, context: int) -> tuple[str, ...]:
    """Return what is assumed where the command says nothing."""
    job = served.job
    found = [served.file.said] if served.file.said else []
    if job.slots is None:
        found.append("-np not given: four slots or as many as there are requests, which share one cache")
    if job.layers_asked is None:
        found.append("-ngl not given: all layers on the GPUs; where they do not fit, --fit puts fewer there by itself")
    if job.context is None and job.ctx_size is None:
        found.append(f"no context given: {context:,} tokens, what the model was trained for")
    if len(served.shares) > 1 and not job.shares:
        found.append("--tensor-split not given: layers divided by the GPUs' memory, as if all of it were free")
    return tuple(found)


def _warnings(served: Served) -> tuple[str, ...]:
    if served.question is not None:
        return ()
    where = "" if served.job.kv_offload else " with its cache on the host"
    return (f"llama.cpp's graph of {served.sizes.arch}{where} is not known here: its compute buffers are not counted",)


def printed(served: Served, context: int) -> tuple[Printed, ...]:
    """Return the lines that the server logs, in MiB."""
    job = served.job
    at = served.window(context, job.concurrency)
    layers = served.kv(at)
    k, v = sum(int(each.k) for each in layers), sum(int(each.v) for each in layers)
    gpus = range(len(served.shares))
    on_gpus = sum(int(served.kv_bytes(gpu, context, job.concurrency)) for gpu in gpus)
    loaded = served.loaded
    host = loaded.mapped_bytes if job.mmap else loaded.host_bytes
    rows = [
        ("model_gpu_mib", "model buffer size on GPUs", sum(loaded.gpu_bytes.values())),
        ("model_host_mib", "model buffer size on the host", host),
        ("kv_mib", "KV self size", k + v),
        ("kv_mib_k", "K", k),
        ("kv_mib_v", "V", v),
        ("kv_gpu_mib", "KV buffer size on GPUs", on_gpus),
        ("rs_mib", "RS buffer size", _states(served, job.concurrency)),
        ("output_buffer_mib", "output buffer size", int(served.output_bytes(context, job.concurrency))),
    ]
    if served.question is not None:
        of_device = buffers(served.question, Window(*map(int, at)))
        rows.append(("compute_buffer_mib", "compute buffer size on GPUs", sum(of_device.values()) - of_device[-1]))
        rows.append(("host_buffer_mib", "compute buffer size on the host", of_device[-1]))
    lines = [Printed(name, f"{what} = {n / MIB:8.2f} MiB", n / MIB) for name, what, n in rows if n]
    if layers:
        cells = max(int(at.cells), 0)
        lines.append(Printed("kv_cells", f"{cells} cells", cells))
        lines.append(Printed("kv_layers", f"{len(layers)} layers", len(layers)))
    return tuple(lines)


def _states(served: Served, concurrency: int) -> int:
    return sum(int(states_of(alike, served.slots(concurrency))) for alike in served.recurrent.values())
