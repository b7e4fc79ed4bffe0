"""Allocated, reserved, device: the chain by hand, against a published run to the byte, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.allocator import Config, replay
from oomph.constants import measured, rule
from oomph.device_memory import Figures, figures, first_products, fits, misfits, with_workspaces
from oomph.devices import find
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.ledger import GROUPS, SOURCES
from oomph.play import train_step
from oomph.stream import Event, Label, Stream
from oomph.units import KIB, MIB

RTX_4090, H100 = find("rtx-4090"), find("h100")
AROUND = 2 * MIB  # one segment of the small pool, for what the program keeps beside the job
CONTEXT_4090 = round(0.70 * 2**30 - 222.14 * MIB)  # github.com/pytorch/torchchat/issues/1341, the middle one of three
CUBLAS = (2 * 4096 + 8 * 16) * KIB
MISTRAL_7B = {
    "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_7B_PARAMETERS = 7_241_732_096  # its model card's safetensors index


def around(allocated_bytes: int) -> int:
    """What bounds leave for what no job says: AROUND, and half a per cent for other versions of the libraries."""
    return AROUND + allocated_bytes * 5 // 1000


def stream(*steps: tuple[int, int, str, str]) -> Stream:
    """A stream of (ordinal, bytes, operation, instant)."""
    labels = {ordinal: Label(op, (), "bf16", instant) for ordinal, n_bytes, op, instant in steps if n_bytes > 0}
    return Stream([Event(ordinal, n_bytes) for ordinal, n_bytes, _, _ in steps], labels=labels)


TRAINING = stream(
    (0, 64 * MIB, "parameter", "parameters"),
    (1, 8 * MIB, "mm", "layer 0 forward"),
    (2, 8 * MIB, "addmm", "layer 1 forward"),
    (3, 64 * MIB, "mm", "layer 1 backward"),
    (3, -64 * MIB, "", ""),
    (2, -8 * MIB, "", ""),
    (1, -8 * MIB, "", ""),
)
HOLES = Stream([Event(0, 30 * MIB), Event(0, -30 * MIB), Event(1, 40 * MIB)])


# --- cuBLAS's workspaces


def test_training_has_two_workspaces() -> None:
    """One after the first product of the forward thread, one after the first of autograd's thread."""
    assert first_products(TRAINING) == [2, 4]


def test_inference_has_one_workspace() -> None:
    """Without a backward pass there is one thread."""
    prefill = stream((0, 512, "embedding", "prefill"), (1, 512, "bmm", "prefill"), (2, 512, "mm", "decode 1"))
    assert first_products(prefill) == [2]


def test_no_product_no_workspace() -> None:
    """Nor can it be told for a stream whose operations have no names, such as a recording."""
    assert first_products(stream((0, 512, "mul", "forward"))) == []
    assert first_products(Stream([Event(0, 512)])) == []
    assert figures(TRAINING, RTX_4090, recorded=True).allocated.n_bytes == 144 * MIB


def test_workspaces_stay_and_marks_move() -> None:
    """An inserted allocation has an ordinal of its own and is never freed; later marks point at the same event."""
    marked = Stream(TRAINING.events, [(2, "second product"), (4, "after backward's first"), (7, "end")])
    longer = with_workspaces(marked, [(2, CUBLAS), (4, CUBLAS)])
    assert longer.marks == [(2, "second product"), (5, "after backward's first"), (9, "end")]
    assert longer.live_at(9) == {0: 64 * MIB, 4: CUBLAS, 5: CUBLAS}


@pytest.mark.parametrize(("batch", "allocated"), [(4, 43_467_876_352), (8, 43_468_269_568)])
def test_a_published_run_to_the_byte(batch: int, allocated: int) -> None:
    """What is allocated after 100 steps of Mistral-7B in bf16 with AdamW on an A100, batches of 4096 tokens.

    foundation-model-stack/fms-acceleration, scripts/benchmarks/refs/a100_80gb.csv, framework_config none:
    mem_torch_mem_alloc_in_bytes. Weights and two states, two cuBLAS workspaces, the last batch (ids, mask, labels in
    int64) and 100 logged losses of 512 B.
    """
    states = 3 * 2 * MISTRAL_7B_PARAMETERS
    inputs, losses = 3 * batch * 4096 * 8, 100 * 512
    workspace = rule("cublas_workspace", find("a100-80gb-sxm")).n_bytes
    assert states + 2 * workspace + inputs + losses == allocated


def test_a_published_peak() -> None:
    """The peak of the same run, 72,434,837,504 bytes, is the tape's optimizer step with workspaces; the batch and some
    scalars, together under half a MiB, are on top because that trainer keeps them."""
    job = TrainJob(4, 4096, checkpointing="non-reentrant", hold_logits=False, clip_gradients=True)
    played = train_step(model_from_config(MISTRAL_7B), job)
    found = figures(played.recorder.stream(), find("a100-80gb-sxm"))
    assert 0 <= 72_434_837_504 - found.allocated.n_bytes < MIB // 2


# --- the three figures


def test_a_full_device_empties_the_cache() -> None:
    """30 MiB are freed and 40 asked for: 70 reserved without an end, 40 on a device that holds 60 beside the context.

    On one that does not hold the job at all, the figures are those of a device without an end.
    """
    stream = Stream([Event(0, 30 * MIB), Event(0, -30 * MIB), Event(1, 40 * MIB)])
    for room, reserved in ((100, 70), (60, 40), (39, 70)):
        found = figures(stream, RTX_4090, capacity_bytes=CONTEXT_4090 + room * MIB)
        assert found.reserved.n_bytes == reserved * MIB


def test_the_chain_by_hand() -> None:
    """RTX 4090. Allocated: 64 + 8 + 8 + 64 MiB and two workspaces of 8.125 MiB, and 1 MiB for a bias. Reserved: two of
    64 MiB, one of 2 for the bias, and segments of 20 MiB: 8 + 8.125 MiB leave too little for the next 8, and 8 + 8.125
    MiB fill the second one as well."""
    found = figures(TRAINING, RTX_4090)
    assert found.allocated.n_bytes == 145 * MIB + 2 * CUBLAS
    assert found.allocated.safe_bytes == found.allocated.n_bytes + around(found.allocated.n_bytes)
    assert found.reserved.n_bytes == (2 * 64 + 2 * 20 + 2) * MIB
    assert found.device.n_bytes == 170 * MIB + CONTEXT_4090


def test_hopper_takes_larger_workspaces() -> None:
    """H100: 32 MiB each, beside 1 MiB for a bias, in segments of their own."""
    found = figures(TRAINING, H100)
    assert found.allocated.n_bytes == (145 + 2 * 32) * MIB
    assert found.reserved.n_bytes == (2 * 64 + 20 + 2 * 32 + 2) * MIB


def test_an_unknown_device_widens_the_bounds() -> None:
    """No device: the default workspaces and the widest of all, the widest context, and the items say so."""
    found = figures(TRAINING)
    assert found.allocated.n_bytes == 145 * MIB + 2 * CUBLAS
    assert found.allocated.safe_bytes == (145 + 2 * 204) * MIB + around(found.allocated.n_bytes)
    assert found.device.safe_bytes > found.device.n_bytes + 2 * (204 - 9) * MIB
    program, versions, workspaces, biased, rounding, context = found.items
    assert (workspaces.name, biased.name, rounding.name, context.name) == (
        "cuBLAS workspaces", "cuBLASLt workspaces", "allocator rounding and cache", "CUDA context",
    )  # fmt: skip
    assert (program.n_bytes, program.safe_bytes) == (0, AROUND)
    assert (versions.n_bytes, versions.name) == (0, "versions that differ from those played")
    assert AROUND + versions.safe_bytes == around(found.allocated.n_bytes)
    assert ["no rule" in workspaces.evidence, "not measured" in context.evidence] == [True, True]


def test_several_processes_hold_nccl() -> None:
    """More than one process: what NCCL was seen to hold, at least 1.43 - 0.51 GiB, on top."""
    alone, together = figures(TRAINING, H100), figures(TRAINING, H100, processes=2)
    assert together.device.n_bytes - alone.device.n_bytes == round(0.92 * 2**30)
    assert together.device.safe_bytes - alone.device.safe_bytes == round(1.50 * 2**30)
    assert together.items[-1].name == "NCCL"


def test_expandable_segments_on_request() -> None:
    """The allocator's settings are obeyed: what is freed in between is used again."""
    assert figures(HOLES, H100).reserved.n_bytes == 70 * MIB
    assert figures(HOLES, H100, Config(expandable_segments=True)).reserved.n_bytes == 40 * MIB


def test_a_recording_is_what_its_versions_did() -> None:
    """Nothing is added for other versions, nor for the program: both are in it."""
    found = figures(TRAINING, RTX_4090, recorded=True)
    assert found.allocated.safe_bytes == found.allocated.n_bytes
    assert "versions that differ from those played" not in {item.name for item in found.items}


def test_misfits_of_the_largest_request() -> None:
    """The upper bound of reserved: a request after the first free may miss the cache, in a segment of its own size."""
    assert figures(HOLES, H100).reserved.safe_bytes == (70 + 2 * 40) * MIB + around(40 * MIB)
    assert figures(HOLES, H100, Config(expandable_segments=True)).reserved.safe_bytes == 40 * MIB + around(40 * MIB)
    assert figures(Stream(HOLES.events[:1]), H100).reserved.safe_bytes == 30 * MIB + around(30 * MIB)
    assert misfits(Stream([Event(0, 9 * MIB), Event(0, -9 * MIB), Event(1, 3 * MIB)]), Config()) == 2 * 20 * MIB
    assert misfits(Stream(), Config()) == 0


# --- what fits


@pytest.mark.parametrize(("room_mib", "runs", "retries"), [(70, True, 0), (69, True, 1), (40, True, 1), (39, False, 1)])
def test_the_cache_is_emptied_before_memory_runs_out(room_mib: int, runs: bool, retries: int) -> None:
    """70 MiB hold both segments; with less the first is given back, down to the 40 MiB that are needed at once."""
    found = fits(HOLES, room_mib * MIB + CONTEXT_4090, RTX_4090)
    assert (found.played.fits, found.played.retries) == (runs, retries)
    assert (found.status == "too_big") is not runs


def test_tight_is_when_only_the_point_fits() -> None:
    """Between the context to count on and the largest seen, with room for other versions."""
    context = figures(HOLES, RTX_4090).items[-1]
    versions = 40 * MIB * 5 // 1000
    assert fits(HOLES, 40 * MIB + context.n_bytes, RTX_4090).status == "tight"
    assert fits(HOLES, 40 * MIB + context.safe_bytes + versions - 1, RTX_4090).status == "tight"
    assert fits(HOLES, 40 * MIB + context.safe_bytes + versions, RTX_4090).status == "fits"
    assert fits(HOLES, 0, RTX_4090).status == "too_big"


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Random streams with a few matrix products, all frees valid."""
    events, labels, alive = [], {}, []
    for ordinal in range(draw(st.integers(1, 30))):
        n_bytes = draw(st.integers(1, 30 * MIB))
        instant = draw(st.sampled_from(["forward", "loss backward"]))
        labels[ordinal] = Label(draw(st.sampled_from(["mm", "mul"])), (), "bf16", instant)
        events.append(Event(ordinal, n_bytes))
        alive.append((ordinal, n_bytes))
        if draw(st.booleans()):
            gone, size = alive.pop(draw(st.integers(0, len(alive) - 1)))
            events.append(Event(gone, -size))
    return Stream(events, labels=labels)


@settings(max_examples=100, deadline=None)
@given(streams(), st.sampled_from([None, RTX_4090, H100, find("rtx-5080"), find("mi300x")]), st.integers(1, 2))
def test_what_always_holds(job: Stream, device, processes: int) -> None:
    """Tensors <= allocated <= reserved <= device, points <= bounds, items explain the device's figure to the byte."""
    found: Figures = figures(job, device, processes=processes)
    assert job.peak_bytes <= found.allocated.n_bytes <= found.reserved.n_bytes <= found.device.n_bytes
    for figure in (found.allocated, found.reserved, found.device):
        assert figure.n_bytes <= figure.safe_bytes
    assert job.peak_bytes + sum(item.n_bytes for item in found.items) == found.device.n_bytes
    assert job.peak_bytes + sum(item.safe_bytes for item in found.items) >= found.device.safe_bytes
    assert all(item.group in GROUPS and item.source in SOURCES and item.evidence for item in found.items)
    assert all(0 <= item.n_bytes <= item.safe_bytes for item in found.items)


@settings(max_examples=100, deadline=None)
@given(streams(), st.sampled_from([None, RTX_4090, H100]))
def test_what_is_reserved_at_most_fits(job: Stream, device) -> None:
    """A device as large as the upper bound runs the job; one that cannot hold the tensors does not."""
    found = figures(job, device)
    assert fits(job, found.device.safe_bytes, device).status == "fits"
    assert fits(job, job.peak_bytes - 1, device).status == "too_big"


@settings(max_examples=60, deadline=None)
@given(streams(), st.sampled_from([RTX_4090, H100]), st.integers(0, 200))
def test_a_fit_shows_what_the_allocator_does_at_the_point(job: Stream, device, less_mib: int) -> None:
    """Also where one play tells both: what ran through at the upper bound, nothing given back, does so at the point."""
    context = measured("cuda_context", device).n_bytes
    capacity = max(0, figures(job, device).device.safe_bytes - less_mib * MIB)
    found = fits(job, capacity, device, recorded=True)
    assert found.played == replay(job, None, max(0, capacity - context), capacity)
