"""A model in llama.cpp's server: what lies on each GPU and with the host, and the lines it logs of that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph.constants import measured
from oomph.engines.base import TOGETHER, Deployment, Later, Limit, Share, with_items
from oomph.engines.llamacpp.job import MOST_SLOTS, LlamaCppJob
from oomph.engines.llamacpp.printing import printed
from oomph.engines.llamacpp.served import SOURCE, Served, known
from oomph.engines.serving import HOST
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.llamacpp.clip import Projector
    from oomph.engines.llamacpp.file import File

Amount = Any  # an int or a numpy array of them


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
    projector = _projector(job, bool(devices)) if job.mmproj else None
    served, fits = _fitted(served, used, projector) if job.fits and devices else (served, ())
    served = _adapted(served) if job.lora or job.lora_scaled else served
    context = context_of(served)
    gpus = [gpu_share(served, at, used[at] if devices else None, len(used)) for at in range(len(used))]
    host = Share(HOST, host_items(served), partial(served.needs, -1), partial(served.held, -1))
    deployed = Deployment(
        shares=(*(_adapters(served, share, at) for at, share in enumerate(gpus)), _adapters(served, host, -1)),
        context=context,
        printed=Later(partial(printed, served, context)),
        limits=limits_of(served),
        assumptions=(*taken_for_granted(served, context), *_not_counted(found, job), *fits),
        warnings=(*_warnings(served), *unmatched(served.file, replace(job, cpu_moe=False, n_cpu_moe=0).patterns)),
    )
    deployed = _with_draft(deployed, served) if job.draft else deployed
    if projector is None:
        return deployed
    from oomph.engines.llamacpp.clip import with_projector

    return with_projector(deployed, projector)


def _adapted(served: Served) -> Served:
    from oomph.engines.llamacpp.adapters import adapters_of, placed

    return replace(served, adapters=placed(served, adapters_of(served.job, served.sizes.arch)))


def _adapters(served: Served, share: Share, at: int) -> Share:
    """Return a device's share with adapters and control vectors, if there are any."""
    job = served.job
    if not (served.adapters or job.control_vector or job.control_vector_scaled):
        return share
    from oomph.engines.llamacpp.adapters import adapter_bytes, vector_bytes

    vectors = vector_bytes(served, at) if job.control_vector or job.control_vector_scaled else 0
    evidence = f"{SOURCE}: llama-adapter.cpp"
    items = (
        Item("LoRA adapters", "adapters", adapter_bytes(served, at), source="rule", evidence=evidence),
        Item("control vectors", "adapters", vectors, source="rule", evidence=evidence),
    )
    return with_items(share, *(item for item in items if item.n_bytes))


def _projector(job: LlamaCppJob, known: bool) -> Projector:
    """Return what a projector takes, which lies on the first GPU of the machine."""
    from oomph.engines.llamacpp.clip import projector_of

    if known and job.main_gpu:
        raise UnsupportedError("A projector on another GPU than the model is not modelled.", "Leave -mg out.")
    found = projector_of(job, gpus=True)
    if job.fits and found.buffers is None:
        raise UnsupportedError(f"What --fit leaves for a projector {found.kind} is not known.", "Say -ngl and -c.")
    return found


def _with_draft(deployed: Deployment, served: Served) -> Deployment:
    from oomph.engines.llamacpp.drafts import beside, draft_of, lines_of

    draft = draft_of(served)
    lines = deployed.printed
    return replace(
        deployed,
        shares=tuple(
            beside(share, draft, -1 if share.name == HOST else at) for at, share in enumerate(deployed.shares)
        ),
        printed=Later(lambda: (*lines, *lines_of(draft, deployed.context))),
        assumptions=(*deployed.assumptions, *_of_draft(served, draft)),
        warnings=(*deployed.warnings, *_warnings(draft)),
    )


def _of_draft(served: Served, draft: Served) -> tuple[str, ...]:
    """Return what is assumed of a draft."""
    said = [f"of the draft: {draft.file.said or f'a file in {draft.file.stored}'}"]
    if "draft-simple" not in served.job.spec_type:
        said.append("--spec-type draft-simple not given: new builds load a draft and do not ask it")
    return tuple(said)


def _fitted(served: Served, used: Sequence[Device], projector: Projector | None) -> tuple[Served, tuple[str, ...]]:
    """Return the model as --fit starts it, and in words what that is."""
    from oomph.engines.llamacpp.drafts import draft_of
    from oomph.engines.llamacpp.fit import fitted

    job = served.job
    if job.ctx_size is None and job.context is not None:
        tokens = job.context * (job.concurrency if job.unified else served.slots(job.concurrency))
        served = replace(served, job=replace(job, ctx_size=int(tokens)))
    free = [device.capacity_bytes - measured("cuda_context", device).n_bytes for device in used]
    if projector is not None and projector.on_gpu and projector.buffers is not None:
        free[0] -= projector.counted + projector.buffers[0]
    found = fitted(served, free, draft_of(served) if job.draft else None)
    layers, kept = found.job.layers_asked, len(found.sizes.kept) + 1
    said = f"--fit on: {kept if layers is None else min(layers, kept)} of {kept} layers on the GPUs"
    without = len(found.overrides)
    said += f", {without} of them with experts or maps elsewhere" if without else ""
    return found, (f"{said}, a cache of {found.job.ctx_size:,} tokens",)


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
        most = int(served.window(1, 1).cells)
        found["context"] = Limit(most, f"-c leaves so many tokens for {'one request' if job.unified else 'each slot'}")
        if job.unified:
            found[TOGETHER] = Limit(most, "-c is so many tokens, which all slots share")
    return found


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
    if job.fits and not served.present:
        found.append("--fit on, and no --gpu to fit it on: all layers on GPUs")
    if job.layers_asked is None and not job.fits:
        found.append(
            "-ngl not given: all layers on the GPUs; what the server does where they do not fit, --fit on says"
        )
    if job.context is None and job.ctx_size is None:
        found.append(f"no context given: {context:,} tokens, what the model was trained for")
    if job.cache_ram < 0:
        found.append("--cache-ram -1: the host keeps prompts without a limit, which is not counted")
    if len(served.shares) > 1 and not job.shares:
        found.append("--tensor-split not given: layers divided by the GPUs' memory, as if all of it were free")
    return tuple(found)


def _not_counted(found: Subject, job: LlamaCppJob) -> tuple[str, ...]:
    """Return that a model's other part is not counted, where it has one and no file of it is named."""
    from oomph.formats.gguf_convert import OTHER_FILE

    if job.mmproj or not any(weight.kind in OTHER_FILE for weight in found.model.weights):
        return ()
    return ("its vision or audio part, a file of its own (--mmproj), is not counted; -hf loads it by itself",)


def unmatched(file: File, patterns: Sequence[re.Pattern[str]]) -> tuple[str, ...]:
    """Return a sentence for each pattern of -ot that no tensor of a file has: the server passes over it in silence."""
    names = [tensor.name for tensor in file.tensors]
    return tuple(
        f"-ot {each.pattern[:60]}: no tensor has that in its name"
        for each in patterns
        if not any(map(each.search, names))
    )


def _warnings(served: Served) -> tuple[str, ...]:
    if served.question is not None:
        return ()
    where = "" if served.job.kv_offload else " with its cache on the host"
    return (f"llama.cpp's graph of {served.sizes.arch}{where} is not known here: its compute buffers are not counted",)
