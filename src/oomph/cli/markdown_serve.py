"""The ledger of a served model as Markdown."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from oomph.cli.markdown import table
from oomph.cli.text import printable, printable_ledger
from oomph.units import count, human

if TYPE_CHECKING:
    from oomph.ledger import Ledger


def page(ledger: Ledger, explain: bool) -> str:
    """Return the whole ledger."""
    ledger = printable_ledger(ledger)
    model, job = ledger.model, ledger.job
    parts = [
        f"### {model['name'] or model['model_type']}: {count(model['params'])} parameters in {job['engine']}, "
        f"{job['concurrency']:,} x {job['context']:,} tokens",
        ledger.verdict.sentence if ledger.verdict else f"In all {human(ledger.total_bytes)}.",
        table(
            ["in all", "size", "bytes"],
            [[group, human(size), f"{size:,}"] for group, size in ledger.groups.items() if size],
        ),
    ]
    if ledger.served:
        rows = [
            [each.name, str(each.count), human(each.n_bytes), _size(each.room_bytes), human(each.needed_bytes)]
            for each in ledger.served.shares
        ]
        parts.append(table(["on each", "devices", "holds", "room for requests", "they need"], rows))
    if ledger.served and ledger.served.changes:
        rows = [
            [one.title, f"`{' '.join(one.words)}`", human(one.saved_bytes), human(one.margin_bytes), one.status]
            for one in ledger.served.changes
        ]
        parts.append(table(["one change at a time", "flags", "gains", "left then", "verdict"], rows))
    if ledger.printed:
        parts.append(table([f"{job['engine']} will print"], [[f"`{printable(line.text)}`"] for line in ledger.printed]))
    if explain:
        rows = [[one.name, one.device, f"{one.n_bytes:,}", one.source, one.evidence] for one in ledger.items]
        parts.append(table(["item", "on", "bytes", "source", "evidence"], rows))
    if ledger.command:
        parts.append(f"```\n{printable(shlex.join(ledger.command))}\n```")
    notes = [f"- at most {one.over} {one.most:,}: {one.why}" for one in (ledger.served.limits if ledger.served else ())]
    notes += [f"- warning: {text}" for text in ledger.warnings] + [f"- assumed: {text}" for text in ledger.assumptions]
    return "\n\n".join([*parts, "\n".join(notes)]).rstrip()


def _size(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else human(n_bytes)
