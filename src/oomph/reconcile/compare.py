"""An estimate held against what a log says, figure by figure, with the likeliest reasons for a gap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oomph.ledger import SCHEMA_VERSION, Ledger
from oomph.reconcile.found import Figure, Report
from oomph.reconcile.reasons import reasons
from oomph.units import GIB, MIB

CLOSE = 0.005  # shares: what is nearer than that is called equal
PRINTED = {"gib": 0.0051, "mib": 0.0051}  # half of the last digit that programs print
# What is left for requests: the safe value is less, not more.
LEFT = frozenset({"kv_cache_gib", "kv_tokens", "kv_blocks", "max_concurrency", "avail_after_pool_gib"})
# What logs call the figures of a ledger (allocated, reserved, device), the first that is there counts.
CALLED: Mapping[str, tuple[str, ...]] = {
    "allocated": ("max_allocated_gib", "max_allocated_mib", "allocated_gib", "allocated_mib"),
    "reserved": ("max_reserved_gib", "max_reserved_mib", "reserved_gib", "reserved_mib"),
    "device": ("process_gib", "used_gib"),
}


@dataclass(frozen=True)
class Row:
    """One figure: what was expected (the point, and the safe value), what the log says, and why they may differ."""

    name: str
    expected: float
    safe: float
    real: Figure
    reasons: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """(expected - real) / real, as a share of what was expected where the log has nothing."""
        return (self.expected - self.real.value) / (self.real.value or self.expected or 1)

    @property
    def agrees(self) -> bool:
        """Say whether both are the same within what a program prints."""
        printed = PRINTED.get(self.name.rsplit("_", 1)[-1], 0.0)
        return abs(self.expected - self.real.value) <= max(printed, CLOSE * abs(self.real.value))

    @property
    def above(self) -> bool:
        """Say whether the log has more than the estimate's safe value allows for; of what is left, less than it."""
        if self.agrees:
            return False
        left = self.name in LEFT
        return self.real.value < self.safe if left else self.real.value > self.safe

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON knows it."""
        return {
            "name": self.name,
            "expected": self.expected,
            "safe": self.safe,
            "real": self.real.to_dict(),
            "relative_error": self.difference,
            "agrees": self.agrees,
            "above": self.above,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True)
class Reconciliation:
    """What logs say, and how an estimate compares; without a ledger only what they say."""

    reports: tuple[Report, ...]
    ledger: Ledger | None = None
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the versioned JSON form."""
        from oomph import __version__

        return {
            "schema_version": SCHEMA_VERSION,
            "oomph_version": __version__,
            "job": self.ledger.job if self.ledger else None,
            "reports": [report.to_dict() for report in self.reports],
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }


def compared(reports: Sequence[Report], ledger: Ledger | None, notes: Sequence[str] = ()) -> Reconciliation:
    """Return every figure that both an estimate and the logs have."""
    if ledger is None:
        return Reconciliation(tuple(reports), None, (), tuple(notes))
    rows = [
        Row(name, expected, safe, real, reasons(name, expected, real, reports, ledger))
        for name, expected, safe in _expected(ledger)
        if (real := _real(name, reports)) is not None
    ]
    for figure in ledger.figures:
        for name in CALLED.get(figure.name, ()):
            found = _real(name, reports)
            if found is not None:
                unit = GIB if name.endswith("_gib") else MIB
                point, safe = figure.n_bytes / unit, figure.safe_bytes / unit
                rows.append(Row(name, point, safe, found, reasons(name, point, found, reports, ledger)))
                break
    ran_out = any(report.named("asked_gib") for report in reports)
    verdict = (ledger.verdict.sentence,) if ran_out and ledger.verdict else ()
    return Reconciliation(tuple(reports), ledger, tuple(rows), (*notes, *verdict))


def _expected(ledger: Ledger) -> Iterator[tuple[str, float, float]]:
    for one in ledger.printed:
        yield one.name, one.value, one.value if one.safe is None else one.safe


def _real(name: str, reports: Sequence[Report]) -> Figure | None:
    """Return what a log says last; of several devices in one start that on the device with the most."""
    for report in reports:
        found = report.named(name)
        if found:
            last = found[-1].line.number
            devices = {one.device: one for one in found}  # the last of each
            return max(devices.values(), key=lambda one: one.value) if len(devices) > 1 else _at(found, last)
    return None


def _at(found: Sequence[Figure], number: int) -> Figure:
    return next(one for one in reversed(found) if one.line.number == number)
