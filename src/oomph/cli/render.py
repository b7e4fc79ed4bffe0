"""A ledger for people: the verdict, a bar, formats side by side, the bytes by block. Needs rich; sees only results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oomph.cli.text import printable_ledger
from oomph.units import GIB, count, gib, human

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.ledger import Item, Ledger
    from oomph.model import Model
    from oomph.rules import Applied

MIN_WIDTH = 40  # columns; a terminal that says it has fewer breaks the lines itself
MAX_BAR = 100
ROOMY = 60  # columns from which every column of the table of formats has its place
NAMED = 100  # columns from which devices are told by their long names too
WIDE = 120  # columns from which other spellings of a name have a place
FULL, FREE = "█", "░"
ASCII = str.maketrans({FULL: "#", FREE: "."})

STYLES = {"fits": "bold green", "tight": "bold yellow", "too_big": "bold red"}
BAR = ("cyan", "magenta", "blue", "yellow", "green", "red", "bright_cyan", "bright_magenta", "bright_blue")
TITLES = {
    "embedding": "token embedding",
    "position_embedding": "position embedding",
    "embedding_per_layer": "per-layer embedding",
    "attention": "attention",
    "mlp": "MLP",
    "moe_experts": "experts",
    "moe_router": "routers",
    "moe_shared_expert": "shared experts",
    "norm": "norms",
    "lm_head": "output head",
    "mamba": "Mamba mixers",
    "linear_attention": "linear attention",
    "short_conv": "short convolutions",
    "rg_lru": "RG-LRU",
    "vision": "vision tower",
    "projector": "projector",
    "audio": "audio tower",
    "mtp": "multi-token prediction",
    "other": "other",
}


class Output(Console):
    """A console that leaves it to its caller what a pipe without a reader means, and is never too narrow to use."""

    def __init__(self) -> None:
        super().__init__(highlight=False)
        if self.width < MIN_WIDTH:
            self.width = MIN_WIDTH

    def on_broken_pipe(self) -> None:
        """Say so; rich itself would exit with 1, which here means that a model does not fit."""
        raise BrokenPipeError

    def blocks(self, text: str) -> str:
        """Return text with block characters, or with what stands for them where the encoding has none."""
        return text.translate(ASCII) if self.options.ascii_only else text


def render(ledger: Ledger, explain: bool) -> None:
    """Print a ledger."""
    out = Output()
    ledger = printable_ledger(ledger)
    out.print(headline(ledger))
    if ledger.verdict:
        out.print(Text(ledger.verdict.sentence, style=STYLES[ledger.verdict.status]))
    out.print(bar(ledger, out))
    if ledger.alternatives:
        out.print(formats_table(ledger, out.width >= ROOMY))
        for reason, names in _reasons(ledger).items():
            out.print(Text(f"{', '.join(names)}: {reason}", style="dim"))
    out.print(blocks_table(ledger, out))
    if ledger.not_loaded:
        out.print(_not_loaded(ledger.not_loaded), style="dim")
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))
    if explain:
        _explain(ledger, out)
    elif ledger.assumptions:
        out.print(Text(f"Assumed: {'; '.join(ledger.assumptions)}", style="dim"))
    if not explain:
        out.print(
            Text(
                "Weights only: cache, activations and training states come on top. --explain: every tensor.",
                "dim",
            )
        )


def headline(ledger: Ledger) -> Text:
    """Return the first line: name, parameters, format, bytes."""
    model = ledger.model
    text = Text(str(model["name"] or model["model_type"]), style="bold")
    active = model["active_params"]
    of = f", {count(active)} active" if active != model["params"] else ""
    text.append(f"  {count(model['params'])} parameters{of}", style="")
    text.append(f" · {ledger.job['format']} · {human(ledger.total_bytes)} of weights", style="")
    if model["tied"]:
        text.append(" · head tied to the embedding", style="dim")
    return text


def bar(ledger: Ledger, out: Output) -> Text:
    """Return one line of blocks: the weights by kind, then what stays free on the device."""
    capacity = ledger.verdict.capacity_bytes * ledger.device["count"] if ledger.verdict and ledger.device else 0
    return stacked([n_bytes for _, n_bytes in _kinds(ledger)], capacity, out)


def stacked(parts: Sequence[float], capacity: float, out: Output) -> Text:
    """Return one line of blocks: parts in the bar's colours, then what stays free of a capacity in the same unit.

    Where a part ends is rounded, not how long it is, so that no line is longer than its width.
    """
    width = min(out.width, MAX_BAR)
    total = max(capacity, sum(parts)) or 1
    text, before = Text(), 0.0
    for index, part in enumerate(parts):
        before += part
        text.append(out.blocks(FULL) * (round(before / total * width) - len(text)), style=BAR[index % len(BAR)])
    return text.append(out.blocks(FREE) * (width - len(text)), style="dim")


def _kinds(ledger: Ledger) -> list[tuple[str, int]]:
    return sorted(ledger.kinds.items(), key=lambda pair: pair[1], reverse=True)


def plain_table(*columns: str, right: Sequence[int] = ()) -> Table:
    """Return a table with a line below its head; `right` are the columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold")
    return table


def formats_table(ledger: Ledger, layers: bool) -> Table:
    """Return the same model in several formats, side by side; `layers` asks for the largest layer too."""
    judged = ledger.verdict is not None
    middle = ["largest layer"] * layers
    table = plain_table("format", "weights", *middle, "at most", *["fits"] * judged, right=range(1, 3 + layers))
    for column in table.columns[1:]:
        column.no_wrap = True
    for row in ledger.alternatives:
        if row.total_bytes is None or row.safe_bytes is None:
            table.add_row(row.format, "-", *["-"] * layers, "-")
            continue
        table.add_row(
            Text(row.format, style="bold" if row.format == ledger.job["format"] else ""),
            human(row.total_bytes),
            *[human(row.largest_layer_bytes or 0)] * layers,
            human(row.safe_bytes),
            *["[green]yes[/]" if row.fits else "[red]no[/]"] * judged,
        )
    return table


def _reasons(ledger: Ledger) -> dict[str, list[str]]:
    """Return what is to be said of rows, with the formats it is said of."""
    found: dict[str, list[str]] = {}
    for row in ledger.alternatives:
        if row.reason:
            found.setdefault(row.reason, []).append(row.format)
    return found


def blocks_table(ledger: Ledger, out: Output) -> Table:
    """Return the bytes by kind of block with the shapes behind them."""
    table = plain_table("block", "bytes", "share", "shapes", right=(1, 2))
    table.columns[1].no_wrap = True
    total = max(ledger.total_bytes, 1)
    for index, (kind, n_bytes) in enumerate(_kinds(ledger)):
        name = Text(out.blocks(f"{FULL} "), style=BAR[index % len(BAR)]).append(TITLES.get(kind, kind), style="default")
        items = [item for item in ledger.items if item.kind == kind]
        table.add_row(name, human(n_bytes), f"{n_bytes / total:.1%}", Text(_shapes(items)))
    table.add_section()
    table.add_row(Text("weights", style="bold"), human(ledger.total_bytes), "", f"{ledger.total_bytes:,} bytes")
    reserve = ledger.safe_bytes - ledger.total_bytes
    table.add_row(
        "at most",
        human(ledger.safe_bytes),
        "",
        f"with up to {human(reserve)} of CUDA context and allocator rounding",
    )
    return table


def _shapes(items: Sequence[Item]) -> str:
    """Return the two largest tensors of a block in short."""
    first = sorted(items, key=lambda item: item.n_bytes, reverse=True)[:2]
    shown = [f"{item.name.rsplit('.', 2)[-2]} {shape_text(item)} {item.dtype}" for item in first if "." in item.name]
    more = f" … +{len(items) - len(first)}" if len(items) > len(first) else ""
    return ", ".join(shown) + more


def shape_text(item: Item) -> str:
    """Return a shape with its repeats in front: 32 x [4096, 4096]."""
    repeats = [str(size) for axis, size in item.axes if axis in ("layers", "experts", "tensors")]
    shape = [str(size) for axis, size in item.axes if axis not in ("layers", "experts", "tensors")]
    return "x".join([*repeats, f"[{', '.join(shape)}]"])


def _not_loaded(items: Sequence[Item]) -> str:
    total = sum(item.n_bytes for item in items)
    return f"In the checkpoint, not loaded by default: {len(items)} tensors of multi-token prediction, {human(total)}."


def _explain(ledger: Ledger, out: Output) -> None:
    """Print every item, assumption and reason."""
    table = plain_table("tensor", "shape", "bytes", "source", right=(2,))
    for item in ledger.items:
        shown = f"{item.n_bytes:,}" if item.n_bytes == item.safe_bytes else f"{item.n_bytes:,} to {item.safe_bytes:,}"
        shape = f"{shape_text(item)} {item.dtype}" if item.axes else ""
        table.add_row(Text(item.name), Text(shape), shown, item.source)
    out.print(table)
    for text in dict.fromkeys(f"{item.source}: {item.evidence}" for item in ledger.items if item.evidence):
        out.print(Text(text, style="dim"))
    for text in ledger.assumptions:
        out.print(Text(f"assumed: {text}", style="dim"))


def render_models(rows: Sequence[dict[str, Any]]) -> None:
    """Print catalogue entries, on a wide terminal with other spellings of a name."""
    out = Output()
    wide = out.width >= WIDE
    table = plain_table("name", "parameters", "repository", *["also"] * wide, right=(1,))
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in rows:
        table.add_row(row["name"], count(row["params"]), row["repo"], *[", ".join(row["aliases"][:3])] * wide)
    out.print(table)


def render_gpus(found: Sequence[Device]) -> None:
    """Print devices with what is sold, and what a program sees."""
    out = Output()
    roomy = out.width >= ROOMY
    speeds = ["bandwidth", "TFLOPS"] * roomy
    named = out.width >= NAMED
    columns = ["id", *["name"] * named, "sold as", "programs see", *speeds]
    table = plain_table(*columns, right=range(1 + named, len(columns)))
    table.columns[0].no_wrap = True
    for device in found:
        bandwidth = f"{device.bandwidth / 10**9:,.0f} GB/s" if device.bandwidth else "-"
        flops = f"{device.tflops:g}" if device.tflops else "-"
        table.add_row(
            device.id,
            *[device.name] * named,
            gib(device.marketed_bytes, 0) if device.marketed_bytes else "-",
            gib(device.capacity_bytes),
            *[bandwidth, flops] * roomy,
        )
    out.print(table)


def render_rules(model: Model, applied: Sequence[Applied], seq: int, batch: int) -> None:
    """Print the rules of thumb beside the truth."""
    out = Output()
    out.print(Text(f"{model.name}: rules of thumb at s={seq}, b={batch}", style="bold"))
    table = plain_table("rule", "formula", "says", "derived", "off by", right=(2, 3, 4))
    for row in applied:
        truth = gib(row.truth_bytes) if row.truth_bytes is not None else "-"
        off = f"{row.n_bytes / row.truth_bytes - 1:+.1%}" if row.truth_bytes else "-"
        table.add_row(row.rule.title, row.rule.formula, f"{row.n_bytes / GIB:,.3f} GiB", truth, off)
    out.print(table)
    source = ""
    for row in applied:
        if row.rule.source != source:
            source = row.rule.source
            out.print(Text(f"{source} leaves out:", style="bold"))
        out.print(Text(f"  {row.rule.title}: {row.rule.leaves_out}", style="dim"))
    out.print(
        Text(
            "derived: bytes oomph derives from the model's own tensors and by playing the job (16-bit activations, "
            "flash attention; steps with AdamW, foreach); '-' where there is nothing to compare with.",
            "dim",
        )
    )
