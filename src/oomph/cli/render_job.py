"""A job's ledger for people: the verdict, what stays and what comes on top at the peak, the instants of the step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from oomph.cli.render import BAR, FULL, ROOMY, STYLES, Output, plain_table, shape_text, stacked
from oomph.cli.text import printable_ledger
from oomph.ledger import TOP, largest
from oomph.units import count, human

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oomph.ledger import Instant, Ledger

TITLES = {
    "weights": "weights",
    "weight_copies": "weights cast by autocast",
    "optimizer": "optimizer states",
    "kv_cache": "key-value cache",
    "runtime": "CUDA context, allocator",
}
TOKEN = re.compile(r"decode (\d+)")
TO_PLAN = "oomph plan, with the same words: what would make it fit, and what each change costs."
NAME_SHARE = 36  # percent of the columns that a tensor's name has at most
ROOMY_TENSORS = 72  # columns from which tensors have a place for their shapes


def render(ledger: Ledger, explain: bool) -> None:
    """Print a job's ledger."""
    out = Output()
    ledger = printable_ledger(ledger)
    out.print(headline(ledger))
    if ledger.verdict:
        out.print(Text(ledger.verdict.sentence, style=STYLES[ledger.verdict.status]))
    out.print(bar(ledger, out, ledger.verdict.capacity_bytes if ledger.verdict else 0))
    out.print(groups(ledger, out, "at the peak"))
    out.print(_figures(ledger, out.width >= ROOMY))
    if ledger.verdict and ledger.verdict.fits and ledger.figures[-1].safe_bytes > ledger.verdict.capacity_bytes:
        out.print(Text("At most: on a larger card. On this one the allocator gives back what it only keeps.", "dim"))
    out.print(Text(ledger.why, style="bold"))
    out.print(_tensors(ledger, len(ledger.items) if explain else TOP, out.width))
    out.print(_instants(ledger, explain))
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))
    inputs = [text for text in ledger.assumptions if text.partition("=")[0] in ledger.job]
    reasons = [text for text in ledger.assumptions if text not in inputs]
    if reasons:
        out.print(Text(f"Assumed: {'; '.join(reasons)}", style="dim"))
    out.print(Text(f"The job: {', '.join(inputs)}", style="dim"))
    if ledger.verdict and not ledger.verdict.fits and ledger.job["kind"] == "train":
        out.print(Text(TO_PLAN))
    if not explain:
        out.print(Text("--explain: every tensor at the peak and every instant; --timeline FILE.svg draws it.", "dim"))


def headline(ledger: Ledger) -> Text:
    """Return the first line: what is run, and how much of it."""
    model, job = ledger.model, ledger.job
    text = Text(str(model["name"] or model["model_type"]), style="bold")
    work = "training step" if job["kind"] == "train" else "prefill and decode"
    trains = f", {count(job['trainable_params'])} train ({job['method']})" if "trainable_params" in job else ""
    text.append(f"  {count(model['params'])} parameters{trains} · {work} · {job['precision']} · {job['batch']} x ")
    text.append(f"{job['seq_len']} tokens", style="")
    return text


def by_size(ledger: Ledger) -> list[tuple[str, int]]:
    """Return the groups that hold anything, largest first."""
    return sorted(((name, size) for name, size in ledger.groups.items() if size), key=lambda pair: -pair[1])


def bar(ledger: Ledger, out: Output, capacity: int) -> Text:
    """Return one line of blocks: what is there by group, then what stays free of so many bytes."""
    return stacked([n_bytes for _, n_bytes in by_size(ledger)], capacity, out)


def groups(ledger: Ledger, out: Output, when: str, titles: Mapping[str, str] = TITLES) -> Table:
    """Return what each group holds, in the bar's colours."""
    table = plain_table(when, "bytes", "share", right=(1, 2))
    for index, (group, n_bytes) in enumerate(by_size(ledger)):
        name = Text(out.blocks(f"{FULL} "), style=BAR[index % len(BAR)])
        name.append(titles.get(group, group), style="default")
        table.add_row(name, human(n_bytes), f"{n_bytes / max(ledger.total_bytes, 1):.1%}")
    return table


def _figures(ledger: Ledger, roomy: bool) -> Table:
    table = plain_table("figure", "point", "at most", *["what it is"] * roomy, right=(1, 2))
    words = {
        "allocated": "tensors: torch.cuda.max_memory_allocated",
        "reserved": "what torch's allocator holds: max_memory_reserved",
        "device": "what nvidia-smi shows",
    }
    for figure in ledger.figures:
        word = [words[figure.name]] * roomy
        table.add_row(figure.name, human(figure.n_bytes), human(figure.safe_bytes), *word)
    for column in table.columns[:3]:
        column.no_wrap = True
    return table


def _tensors(ledger: Ledger, most: int, width: int) -> Table:
    roomy = width >= ROOMY_TENSORS
    table = plain_table("alive at the peak", *["shape"] * roomy, "bytes", "why", right=(1 + roomy,))
    for column in (table.columns[0], table.columns[1 + roomy]):
        column.no_wrap = True
    shown = largest(ledger.tensors, most)
    for item in shown:
        name = in_lines(_short(item.name), width * NAME_SHARE // 100)
        shape = [Text(f"{shape_text(item)} {item.dtype}")] * roomy
        table.add_row(Text(name), *shape, human(item.n_bytes), Text(item.evidence))
    rest = len(ledger.tensors) - most
    if rest > 0:
        left = sum(item.n_bytes for item in ledger.tensors) - sum(item.n_bytes for item in shown)
        table.add_row(Text(f"{rest} more", style="dim"), *[""] * roomy, human(left), "")
    return table


def in_lines(name: str, width: int) -> str:
    """Return a name in lines of at most so many letters, cut behind a dot or blank, else an underscore, if it has one.

    >>> in_lines("layers.*.mlp.gate_proj.base_layer", 24)
    'layers.*.mlp.gate_proj.\\nbase_layer'
    """
    lines = []
    while len(name) > width:
        cut = max(name.rfind(".", 0, width), name.rfind(" ", 0, width)) + 1 or name.rfind("_", 0, width) + 1 or width
        lines.append(name[:cut].rstrip())
        name = name[cut:]
    return "\n".join([*lines, name])


def _short(name: str) -> str:
    """Return a tensor's name without what every name of a model begins or ends with."""
    return name.removeprefix("model.").removeprefix("transformer.").removesuffix(".weight").replace(".weight.", ".")


def _instants(ledger: Ledger, explain: bool) -> Table:
    """Return the instants of the step with their peaks; without `explain` those that matter."""
    table = plain_table("instant", "most", "after it", right=(1, 2))
    peak, tokens = ledger.peak, max((_token(instant) for instant in ledger.instants), default=0)
    between: list[Instant] = []
    for instant in ledger.instants:
        here = instant is peak
        if not explain and not here and 1 < _token(instant) < tokens:
            between.append(instant)
            continue
        if between and (here or _token(instant) == tokens):
            _between(table, between)
        if explain or here or instant.repeats > 1 or "layer" not in instant.name:
            style = "bold" if here else ""
            name = f"{instant.name}  <- peak" if here else instant.name
            table.add_row(Text(name, style=style), human(instant.peak_bytes), human(instant.end_bytes))
    return table


def _token(instant: Instant) -> int:
    """Return which token is decoded in an instant; 0 for instants of other passes."""
    found = TOKEN.match(instant.name)
    return int(found[1]) if found else 0


def _between(table: Table, instants: list[Instant]) -> None:
    """Add one row for instants of tokens that are alike, and empty the list."""
    first, last = _token(instants[0]), _token(instants[-1])
    name = f"decode {first}" + (f" to {last}" if last > first else "")
    table.add_row(name, human(max(each.peak_bytes for each in instants)), human(instants[-1].end_bytes))
    instants.clear()
