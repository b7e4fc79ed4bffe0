"""Why a log may differ from an estimate: what the log itself, or the command, gives a hint of. Likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from oomph.ledger import Ledger
from oomph.reconcile.found import Figure, Report
from oomph.units import GIB

NOTABLE = 0.05  # GiB; less than that needs no reason, nor does a smaller share of the figure:
NOTABLE_SHARE = 0.005
CONTEXT_GIB = 0.75  # more beside torch's own memory than a context and its libraries take on any GPU that was measured
DRAFTS = ("--speculative-config", "--speculative-model", "--speculative-algorithm")
FRAGMENTED = 0.1  # share of what torch holds that is cached and of no use, from which on it is worth a word


class Case(NamedTuple):
    """One figure that is looked at: `more` is what the log has beyond the estimate, in the figure's unit."""

    name: str
    more: float
    real: Figure
    reports: Sequence[Report]
    ledger: Ledger

    def said(self, name: str) -> float | None:
        """Return the last value of another figure in the logs."""
        return next((one.value for report in self.reports if (one := report.last(name))), None)

    def flags(self, *names: str) -> bool:
        """Say whether the command in a log has one of these flags."""
        return any(word.split("=")[0] in names for report in self.reports for word in report.command)


OWN_WIDTHS = "model's own widths"  # what engines/vllm/drafts.py says of a draft of unknown sizes

Rule = Callable[[Case], Iterator[str]]


def reasons(name: str, expected: float, real: Figure, reports: Sequence[Report], ledger: Ledger) -> tuple[str, ...]:
    """Return sentences for a gap that is worth one."""
    case = Case(name, real.value - expected, real, reports, ledger)
    if abs(case.more) < max(NOTABLE if name.endswith("_gib") else 1, abs(real.value) * NOTABLE_SHARE):
        return ()
    return tuple(text for rule in RULES for text in rule(case))


def _weights(case: Case) -> Iterator[str]:
    if case.name not in ("weights_gib", "model_gpu_mib"):
        return
    if case.more > 0:
        job = case.ledger.job
        if case.flags("--enable-lora", "--lora-paths") and not job.get("enable_lora"):
            yield "Slots for LoRA adapters are counted as weights."
        if case.flags(*DRAFTS) and not job.get("speculative_config"):
            yield "A draft model's weights are counted too."
        if any(OWN_WIDTHS in said for said in case.ledger.assumptions):
            yield "The draft may be wider than the model, or hold words of its own: its sizes were assumed."
        yield "The checkpoint may hold more than the model: towers, MTP layers, a head apart from the embedding."
    else:
        yield "The checkpoint may be stored in less than the estimate's format: say --format, or point at its folder."


def _budget(case: Case) -> Iterator[str]:
    """The pool is what is left of a budget, so it takes part in everything that is off before it."""
    if case.name not in ("kv_cache_gib", "kv_tokens", "kv_blocks", "max_concurrency"):
        return
    total, device = case.said("total_gib"), case.ledger.device
    if total is not None and device and device.get("program_bytes"):
        table = device["program_bytes"] / GIB
        if abs(total - table) > NOTABLE:
            yield f"This GPU has {total:.2f} GiB where the table's has {table:.2f}: give it as --gpu {total:.2f}GiB."
    free, requested = case.said("init_free_gib"), case.said("requested_gib")
    if free is not None and total is not None and total - free > CONTEXT_GIB:
        yield f"{total - free:.2f} GiB of the GPU were in use before the engine started."
    if free is not None and requested is not None and free < requested:
        yield "Less was free than the engine asked for."
    for name in ("weights_gib", "activation_peak_gib", "non_torch_gib"):
        expected = next((one.value for one in case.ledger.printed if one.name == name), None)
        real = case.said(name)
        if expected is not None and real is not None and abs(real - expected) > NOTABLE:
            word = name.removesuffix("_gib").replace("_", " ")
            yield f"The {word} took {real - expected:+.2f} GiB against the estimate, which the pool gave or got."


def _torch(case: Case) -> Iterator[str]:
    if case.name.startswith(("max_reserved", "reserved")) and case.more > 0:
        cached = case.said("cached_gib")
        if cached is not None and cached > FRAGMENTED * case.real.value:
            yield (
                f"{cached:.2f} GiB are cached in pieces that nothing fits: "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True may give them back."
            )
        else:
            yield "The cache is cut by what ran before: other lengths, an evaluation, a first step."
    if case.name.startswith(("max_allocated", "allocated")):
        if case.more > 0:
            yield "Something is held that the job does not say: outputs kept, a second model, gradients nobody needs."
        elif case.said("asked_gib") is not None:
            yield "It ran out before the peak: the estimate's peak would have come later."


def _device(case: Case) -> Iterator[str]:
    if case.name not in ("process_gib", "used_gib"):
        return
    others = case.said("others_gib")
    if others:
        yield f"Other processes hold {others:.2f} GiB on this GPU."
    reserved = case.said("reserved_gib")
    if reserved is not None and case.real.value - reserved > CONTEXT_GIB:
        beside = case.real.value - reserved
        yield f"{beside:.2f} GiB are not torch's: the CUDA context, NCCL's buffers, other libraries."


def _versions(case: Case) -> Iterator[str]:
    version = next((report.facts["version"] for report in case.reports if report.facts.get("version")), "")
    asked = case.ledger.job.get("version")
    if version and asked is not None and asked != version:
        yield f"The log is of version {version}, the estimate of {asked or 'the newest that oomph knows'}."


RULES: tuple[Rule, ...] = (_weights, _budget, _torch, _device, _versions)
