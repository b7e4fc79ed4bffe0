"""ik_llama.cpp: llama.cpp's files and places, with a cache of its own: latent attention in three ways, no windows.

All slots share one cache of `-c` tokens.
Source: ik_llama.cpp 8337e4cd (August 2026): src/llama.cpp (llama_kv_cache_init), common/common.cpp, ggml/src/ggml.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph.engines.base import Deployment, Engine, Later, Limit, Share
from oomph.engines.ik.job import IkJob
from oomph.engines.ik.other_flags import HARMLESS, MODELS, REFUSED
from oomph.engines.ik.served import IkServed, as_kept
from oomph.engines.llamacpp import GGUF
from oomph.engines.llamacpp.deploy import (
    context_of,
    gpu_share,
    host_items,
    limits_of,
    split_of,
    taken_for_granted,
    unmatched,
    used_gpus,
)
from oomph.engines.llamacpp.printing import printed
from oomph.engines.llamacpp.served import known
from oomph.engines.llamacpp.words import others
from oomph.engines.serving import HOST
from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

Amount = Any  # an int or a numpy array of them

SOURCE = "ik_llama.cpp 8337e4cd"
LEAST_SCORES = 128  # MiB of -amb that newest builds raise a smaller one to


def deploy(found: Subject, job: IkJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return a model in ik_llama.cpp's server; raises UnsupportedError for what is not modelled."""
    job.check_defaults()
    model = as_kept(known(found, job.format), found.source.header)
    used = used_gpus(job, devices)
    served = IkServed(*model, _as_read(job), split_of(job, used), present=bool(devices))
    most = int(served.window(1, 1).n_ctx) // (job.slots or 1)  # a slot's part of the cache, whoever else is there
    limits = limits_of(served)
    if "context" in limits:
        limits["context"] = Limit(most, "-c and -np leave so many tokens for each slot")
    context = most if job.context is None and job.ctx_size is not None else context_of(served)
    gpus = [
        _with_made(gpu_share(served, at, used[at] if devices else None, len(used)), served.made.get(at, 0))
        for at in range(len(used))
    ]
    host = Share(HOST, host_items(served), partial(served.needs, -1), partial(served.held, -1))
    host = _with_made(host, served.made.get(-1, 0))
    slots = "-np gives 1 slot" if (job.slots or 1) == 1 else f"-np gives {job.slots} slots that share one cache"
    kept = tuple(each for each in taken_for_granted(served, context) if not each.startswith("-ngl"))
    said = ["-ngl not given: all layers on the GPUs"] if job.layers_asked is None else []
    if served.job.attention_batch != job.attention_batch:
        said.append(f"-amb {job.attention_batch} is raised to {LEAST_SCORES}, as the server does")
    return Deployment(
        shares=(*gpus, host),
        context=context,
        printed=Later(partial(printed, served, context)),
        limits=limits,
        assumptions=(*kept, *said, slots),
        warnings=(*_warnings(served), *unmatched(served.file, [pattern for pattern, _ in job.ordered])),
    )


def _as_read(job: IkJob) -> IkJob:
    """Return a job as the server's command line makes it: what is repacked is not mapped, a small -amb is raised."""
    job = replace(job, mmap=False) if job.repack else job
    raised = job.build is None and 0 < job.attention.attention_batch < LEAST_SCORES
    return replace(job, attention_batch=LEAST_SCORES) if raised else job


def _with_made(share: Share, n_bytes: int) -> Share:
    """Return a share with maps that are made when the model is loaded."""
    if not n_bytes:
        return share
    made = Item("maps made of others", "weights", n_bytes, source="rule", evidence=f"{SOURCE}: llm_prepare_mla")
    room = None if share.room_bytes is None else share.room_bytes - n_bytes
    return replace(share, items=(*share.items, made), room_bytes=room)


def _warnings(served: IkServed) -> tuple[str, ...]:
    if served.question is not None:
        return ()
    what = f"oomph does not know the graph that ik_llama.cpp builds for {served.sizes.arch}"
    return (f"{what}: its compute buffers are not counted; -amb bounds them",)


def command(model: str, job: IkJob) -> list[str]:
    """Return the words that serve a model so.

    >>> command("model.gguf", IkJob(ctx_size=4096, gpu_layers=99, mla=1, fused_moe=False, kv_offload=False))[1:]
    ['-m', 'model.gguf', '-c', '4096', '-ngl', '99', '-nkvo', '-mla', '1', '-no-fmoe']
    """
    slots = job.slots or 1
    size = job.ctx_size if job.ctx_size is not None else job.context * slots if job.context else None
    words = ["ik_llama.cpp/build/bin/llama-server", "-m", model, *(["-c", str(size)] if size is not None else [])]
    return [*words, *others(job, ("ctx_size",))]


ENGINE = Engine(
    name="ik_llama.cpp",
    title="ik_llama.cpp",
    source=SOURCE,
    job=IkJob,
    starts=(("ik_llama.cpp/llama-server",),),
    deploy=deploy,
    command=command,
    models=MODELS,
    harmless=HARMLESS,
    refused=REFUSED,
    formats=GGUF,
)
