"""The choice of an attention kernel, and what the kernels keep."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.ops.kernel_choice import Call, taken
from oomph.ops.sdpa_math import math_attention
from oomph.play import train_step
from oomph.tape import Tape
from tests.configs import LLAMA_3_8B

DTYPES = ("bf16", "fp16", "fp32")


@pytest.mark.parametrize(
    ("asked", "dtype", "heads", "size", "call", "kernel"),
    [
        ("flash", "bf16", (8, 8), 128, Call(), "flash"),
        ("flash", "bf16", (8, 2), 128, Call(grouped=True), "flash"),
        ("flash", "bf16", (8, 8), 100, Call(), "flash"),
        ("flash", "bf16", (8, 8), 264, Call(), "efficient"),
        ("flash", "fp32", (8, 8), 128, Call(), "efficient"),
        ("flash", "fp32", (8, 2), 128, Call(grouped=True), "math"),
        ("efficient", "fp32", (8, 8), 20, Call(), "efficient"),
        ("efficient", "bf16", (8, 8), 20, Call(), "math"),
        ("cudnn", "bf16", (8, 8), 128, Call(rate=0.125), "cudnn"),
        ("cudnn", "bf16", (8, 8), 128, Call(rate=0.1), "flash"),
        ("cudnn", "bf16", (8, 8), 256, Call(), "flash"),
        ("math", "bf16", (8, 8), 128, Call(), "math"),
    ],
)
def test_what_sdp_utils_says(
    asked: str, dtype: str, heads: tuple[int, int], size: int, call: Call, kernel: str
) -> None:
    """Rules of torch's cuda/sdp_utils.cpp, one by one."""
    tape = Tape()
    query, key = (tape.empty((1, each, 64, size), dtype) for each in heads)
    assert taken(asked, query, key, key, call) == kernel


@pytest.mark.slow
def test_the_tape_takes_the_kernel_the_trace_takes() -> None:
    """The same choice as the referee's for 2,000 random calls."""
    import torch

    from oomph.referee import sdpa

    rng = random.Random(0)
    real = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    seen = set()
    for _ in range(2000):
        heads, length, keys = rng.choice([2, 8]), rng.choice([1, 7, 64]), rng.choice([1, 7, 64])
        size, kv_heads, dtype = rng.choice([4, 8, 18, 20, 64, 128, 136, 256, 264]), rng.choice([2, heads]), "bf16"
        dtype, asked, masked = rng.choice(DTYPES), rng.choice(list(sdpa.ORDER)), rng.random() < 0.3
        options: dict[str, Any] = {"is_causal": not masked and rng.random() < 0.5}
        rate, grouped = rng.choice([0.0, 0.1, 0.25]), rng.random() < 0.7
        tape = Tape()
        shapes = ((1, heads, length, size), *[(1, kv_heads, keys, size)] * 2)
        ours = [tape.empty(shape, dtype) for shape in shapes]
        theirs = [torch.empty(shape, dtype=real[dtype], device="meta") for shape in shapes]
        mask = tape.empty((1, 1, length, keys), "bool") if masked else None
        real_mask = torch.empty((1, 1, length, keys), dtype=torch.bool, device="meta") if masked else None
        call = sdpa.Call(real_mask, rate, enable_gqa=grouped, **options)
        expected = next((each for each in sdpa.ORDER[asked] if sdpa.usable(each, *theirs, call)), "math")
        assert taken(asked, *ours, Call(mask, rate, grouped=grouped, **options)) == expected
        seen.add(expected)
    assert seen == {"flash", "efficient", "cudnn", "math"}


def forward_end(job: TrainJob, **options: Any) -> int:
    """Bytes alive when the loss is known, in one layer of Llama-3-8B."""
    played = train_step(model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1, **options}), job)
    return played.live[played.forward_end] - played.resident


def test_padding_repeats_keys_and_keeps_a_mask() -> None:
    """A mask shuts flash out: keys and values of all heads are kept, and a mask in numbers per layer.

    By hand, 1 sequence of 1024 tokens, 32 heads of 128 on 8: keys and values grow by 2·24·1024·128·2 B, the mask takes
    1024²·2 B, the padding mask 1024·8 B; flash's random state of 1,024 B (rounded) stays as large, the grouped values
    (8·1024·128·2 B), pinned by flash's backward, and the keys after rotation are given back.
    """
    plain, padded = (forward_end(TrainJob(1, 1024, optimizer="none", padding=yes)) for yes in (False, True))
    repeated, grouped = 2 * 32 * 1024 * 128 * 2, 2 * 8 * 1024 * 128 * 2
    assert padded - plain == repeated - grouped + 2 * 1024**2 + 1024 * 8


@pytest.mark.parametrize("use_cache", [False, True])
def test_packing_repeats_keys_and_keeps_a_mask_but_with_a_cache(use_cache: bool) -> None:
    """Position ids that begin anew get a mask, which costs as under padding; with a cache transformers does not look.

    By hand, 2 rows of 1024 tokens, 32 heads of 128 on 8: the caller's position ids take 2·1024·8 B, the tables of
    cosines and sines [2, 1024, 128] are two instead of one for both rows, 2·1024·128·2 B more. Without a cache, per
    row: keys and values for all heads instead of grouped ones, and a mask of numbers, 1024²·2 B.
    """
    plain, packed = (
        forward_end(TrainJob(2, 1024, optimizer="none", packing=yes, use_cache=use_cache)) for yes in (False, True)
    )
    ids, tables = 2 * 1024 * 8, 2 * 1024 * 128 * 2
    repeated, grouped, mask = 2 * 32 * 1024 * 128 * 2, 2 * 8 * 1024 * 128 * 2, 1024**2 * 2
    assert packed - plain == ids + tables + (0 if use_cache else 2 * (repeated - grouped + mask))


def test_one_token_in_a_row_is_not_packed() -> None:
    """There is nothing to tell apart, so no mask: only the position ids, 2·8 B, allocated as 512."""
    plain, packed = (forward_end(TrainJob(2, 1, optimizer="none", packing=yes)) for yes in (False, True))
    assert packed - plain == 512


def test_a_cache_in_training_keeps_copies_of_keys_and_values() -> None:
    """use_cache=True in training holds what torch.cat made, in place of the projections it was made from.

    The kernel saves the copies, so the cache costs nothing more than flash would have kept anyway.
    """
    plain, cached = (forward_end(TrainJob(1, 1024, optimizer="none", use_cache=yes)) for yes in (False, True))
    assert plain == cached


@pytest.mark.parametrize(("precision", "traced", "copies"), [("bf16", False, 2), ("fp16", True, 2), ("fp16", False, 1)])
def test_cuda_reads_fp16_scores_without_a_copy_in_fp32(precision: Any, traced: bool, copies: int) -> None:
    """SoftMax.cpp, softmax: of half-precision scores only bf16 ones are cast before the fp32 softmax."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": 1})
    job = TrainJob(1, 64, precision=precision, attention="eager", optimizer="none")
    stream = train_step(model, job, on="trace" if traced else "gpu").recorder.stream()
    labels = [label for label in stream.labels.values() if label.instant == "layer 0 forward"]
    assert sum(label.shape == (1, 32, 64, 64) and label.dtype == "fp32" for label in labels) == copies


@pytest.mark.parametrize("window", [512, 1024, 1025, None])
def test_a_window_shorter_than_the_sequence_builds_a_mask(window: int | None) -> None:
    """Mistral's sliding window shuts flash out as soon as it is no longer than the sequence."""
    job = TrainJob(1, 1024, optimizer="none")
    mistral = {"model_type": "mistral", "sliding_window": window}
    assert (forward_end(job, **mistral) > forward_end(job)) == (window in (512, 1024))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_math_kernel_of_a_real_run(masked: bool, shared: bool) -> None:
    """Allocations and frees of 64 B and more equal those torch.profiler sees in a run without any mode."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    heads, kv_heads, length, size = 8, 2 if shared else 8, 96, 64
    shapes = ((1, heads, length, size), *[(1, kv_heads, length, size)] * 2)
    real = [torch.zeros(shape) for shape in shapes]
    mask = torch.zeros(1, 1, length, length) if masked else None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        math = torch.ops.aten._scaled_dot_product_attention_math
        kept = math(*real, mask, 0.0, not masked, enable_gqa=shared)[0]
    del kept
    memory = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    theirs = [event.nbytes() for event in sorted(memory, key=lambda event: event.start_ns())]
    tape = Tape("cpu")
    ours = [tape.empty(shape, "fp32") for shape in shapes]
    numbers = tape.empty((1, 1, length, length), "fp32") if masked else None
    start = tape.recorder.position
    result = math_attention(*ours, numbers, 0.0, not masked, shared)
    events = [event.n_bytes for event in tape.recorder.stream().events[start:]]
    assert [n for n in events if abs(n) >= 64] == [n for n in theirs if abs(n) >= 64]
    del result
