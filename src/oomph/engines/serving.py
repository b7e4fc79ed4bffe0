"""From a model, an engine and a job to a Ledger: what is on the devices, what requests take, whether all of it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from oomph import formats
from oomph.answer import Subject, facts
from oomph.engines.base import TOGETHER, Deployment, Engine, ServeJob, Share, asked
from oomph.engines.checks import well_asked
from oomph.errors import UsageError
from oomph.formats.linear import LinearFormat
from oomph.ledger import Figure, Item, Ledger, Verdict
from oomph.served import Bound, Held, Served
from oomph.units import human

if TYPE_CHECKING:
    from oomph.devices import Device

POOL = "room that no request needs"
AS_PUBLISHED = "as published"
HOST = "host"  # the name of the share that lies in the machine's own memory


def serve(found: Subject, engine: Engine, job: ServeJob, devices: Sequence[Device] = ()) -> Ledger:
    """Return the ledger of a model served by an engine on devices; none: only what it takes is said.

    Raises UnsupportedError for what the engine or oomph does not do with the model.
    """
    well_asked(engine, job, devices)
    deployed = engine.deploy(found, job, devices)
    shown = [(share, share_items(share, deployed.context, job.concurrency)) for share in deployed.shares]
    return Ledger(
        job={
            "kind": "serve",
            "model": found.source.name,
            "origin": found.source.origin,
            "engine": engine.name,
            **describe(job),
            "context": deployed.context,
            "format": job.format or AS_PUBLISHED,
        },
        model=facts(found),
        items=tuple(_of_all(item, share) for share, items in shown for item in items),
        device=_devices(devices),
        verdict=judge(f"serving {found.model.name}", deployed, job.concurrency) if devices else None,
        assumptions=deployed.assumptions,
        warnings=(*found.warnings, *found.model.notes, *_idle(found, job), *deployed.warnings),
        figures=(_fullest(shown),),
        printed=tuple(deployed.printed),
        command=tuple(engine.command(_called(found, engine, job), job)),
        served=Served(
            tuple(_held(share, items, deployed.context, job.concurrency) for share, items in shown),
            tuple(Bound(name, limit.most, limit.why) for name, limit in deployed.limits.items() if name != TOGETHER),
        ),
    )


def _idle(found: Subject, job: ServeJob) -> tuple[str, ...]:
    """Return a sentence where the format that was asked for changes nothing in this model."""
    if job.format is None:
        return ()
    fmt = formats.get(job.format)
    return fmt.idle(found.model) if isinstance(fmt, LinearFormat) else ()


def _called(found: Subject, engine: Engine, job: ServeJob) -> str:
    """Return what the model is called in a command: a file of the format that was assumed, where none was asked for."""
    from oomph.engines.model_names import called, reads_gguf
    from oomph.formats import asked_for
    from oomph.formats.gguf_convert import as_published

    name = found.source.repo or found.source.name if engine.hub else found.source.name
    if found.source.header is not None:
        return name
    fmt = job.format
    if fmt is None and reads_gguf(engine):
        fmt = as_published(found.model, found.source.config)
    return called(engine, name, fmt, asked_for(found.source.config or {}) is not None)


def describe(job: ServeJob) -> dict[str, Any]:
    """Return every input of a job with its value, in the order of the fields."""
    return {each.name: getattr(job, each.name) for each in fields(job)}


def share_items(share: Share, context: int, concurrency: int) -> tuple[Item, ...]:
    """Return what one device of a share holds: what is there anyway, what requests take, what of a pool is left."""
    items = (*share.items, *share.held(context, concurrency))
    left = (share.room_bytes or 0) - int(share.needs(context, concurrency)) if share.pool else 0
    if left > 0:
        items = (*items, Item(POOL, "kv_cache", left, source="rule", evidence="the engine takes all of its room"))
    return items


def _of_all(item: Item, share: Share) -> Item:
    """Return an item with the bytes of all equal devices of its share."""
    safe = None if item.safe is None else item.safe * share.count
    device = share.name if share.count == 1 else f"each of {share.count} {share.name}"
    return replace(item, n_bytes=item.n_bytes * share.count, safe=safe, device=device)


def _held(share: Share, items: Sequence[Item], context: int, concurrency: int) -> Held:
    """Return what one device of a share holds in sum."""
    return Held(
        share.name,
        share.count,
        sum(item.n_bytes for item in items),
        sum(item.safe_bytes for item in items),
        int(share.needs(context, concurrency)),
        share.room_bytes,
        None if share.room_bytes is None else share.safe_room_bytes,
        share.capacity_bytes,
    )


def _devices(devices: Sequence[Device]) -> dict[str, Any] | None:
    if not devices:
        return None
    first = devices[0].to_dict()
    names = [device.id for device in devices]
    return {"count": len(devices), **first, **({"mixed": names} if len(set(names)) > 1 else {})}


def _fullest(shown: Sequence[tuple[Share, tuple[Item, ...]]]) -> Figure:
    """Return what the device that holds most holds."""
    sums = [(sum(i.n_bytes for i in items), sum(i.safe_bytes for i in items)) for share, items in shown]
    on_devices = [each for each, (share, _) in zip(sums, shown, strict=True) if share.name != HOST] or sums
    return Figure("device", *max(on_devices))


def judge(what: str, deployed: Deployment, concurrency: int) -> Verdict:
    """Return the verdict: whether every device has room for all requests at once."""
    context, known = deployed.context, deployed.known
    if not known:
        raise UsageError("There is no telling whether it fits on devices that are not known.")
    all_needs = [int(share.needs(context, concurrency)) for share in known]
    needed, tightest = min(zip(all_needs, known, strict=True), key=lambda each: each[1].safe_room_bytes - each[0])
    room, safe = tightest.room_bytes or 0, tightest.safe_room_bytes
    requests = f"{context:,} tokens" if context > 1 else "1 token"
    requests = f"{concurrency} x {requests}" if concurrency > 1 else requests
    each = f" on each of {tightest.count} GPUs" if tightest.count > 1 else ""
    where = f" on {tightest.name}" if len(known) > 1 else each
    fixed = sum(item.n_bytes for item in tightest.items)
    capacity = tightest.capacity_bytes or fixed + room
    status, margin = "fits", safe - needed
    beyond = not_taken(deployed, context, concurrency)
    if beyond:
        status, sentence = "too_big", f"Does not fit: {beyond}"
    elif room <= 0:
        status, margin = "too_big", room - needed
        sentence = f"Does not fit: {what} takes {human(fixed)}{where} before there is a token in its cache, "
        sentence += f"{human(-room)} more than there is."
    elif needed > room:
        status, margin = "too_big", room - needed
        sentence = f"Does not fit: {requests} need {human(needed)}{where}, and {human(room)} are left for requests."
    elif margin < 0:
        status = "tight"
        sentence = f"Tight: {requests} need {human(needed)} of the {human(room)} left for requests{where}, "
        sentence += f"of which {human(max(safe, 0))} are certain."
    else:
        sentence = f"Fits: {requests} need {human(needed)} of the {human(room)} left for requests{where}."
    return Verdict(status, capacity, margin, sentence)


def not_taken(deployed: Deployment, context: int, concurrency: int) -> str:
    """Return in words what is asked for that the engine serves at no memory; '' if nothing is."""
    for name, amount in asked(context, concurrency).items():
        limit = deployed.limits.get(name)
        if limit is not None and amount > limit.most > 0:  # none at all: there is no room, which says more
            what = f"{amount:,} tokens of all requests are" if name == TOGETHER else f"a {name} of {amount:,} is"
            return f"{what} more than {limit.most:,}: {limit.why}."
    return ""
