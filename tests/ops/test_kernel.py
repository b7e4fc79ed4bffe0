"""What CUDA kernels allocate inside operations: played on a GPU, with bytes worked out by hand, and nowhere else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.played import Played
from oomph.tape.tape import Place
from tests.configs import LLAMA_3_8B
from tests.tape.test_tape import GPT2

FLASH_BACKWARD = "Flash_backward"
# Llama-3-8B, one sequence of 2048 tokens, 32 heads of 128 over 8: a row's sum and q's gradient in fp32, then the
# gradients of k and v for all heads in bf16.
LLAMA_FLASH = {
    "softmax_d": 32 * 2048 * 4,
    "dq_accum": 33_554_432,  # 2048 * 32 * 128 * 4
    "dk_expanded": 2048 * 32 * 128 * 2,
    "dv_expanded": 2048 * 32 * 128 * 2,
}

SUMS = ("partial_sums", "semaphores")


def played(raw: dict[str, Any], job: TrainJob, on: Place) -> Played:
    return train_step(model_from_config({**raw, "num_hidden_layers": 1}), job, on=on)


def made(raw: dict[str, Any], job: TrainJob, on: Place) -> Counter[tuple[str, int]]:
    """How often each operation allocates so many bytes."""
    return Counter((one.op, one.n_bytes) for one in played(raw, job, on).recorder.allocations)


def only_on_a_gpu(raw: dict[str, Any], job: TrainJob) -> dict[str, int]:
    """The bytes of what a GPU allocates once and a trace does not; the sums of norms' gradients left out."""
    found = made(raw, job, "gpu") - made(raw, job, "trace")
    for key in [key for key in found if key[0] in SUMS]:
        del found[key]
    assert set(found.values()) == {1}
    return dict(found.keys())


def test_flash_backward_of_llama_3_8b() -> None:
    """Four buffers, and none for the embedding of 2048 tokens."""
    assert only_on_a_gpu(LLAMA_3_8B, TrainJob(1, 2048, optimizer="none")) == LLAMA_FLASH


def test_buffers_stand_on_the_results_and_die_in_reverse() -> None:
    """67,371,008 B on top of dq, dk and dv, gone before the next operation."""
    found = played(LLAMA_3_8B, TrainJob(1, 2048, optimizer="none"), "gpu")
    made = found.recorder.allocations
    ops = [made[event].op if event >= 0 else f"-{made[~event].op}" for event in found.recorder.events]
    begin = ops.index(FLASH_BACKWARD)
    assert ops[begin : begin + 11] == [
        *[FLASH_BACKWARD] * 3,
        *LLAMA_FLASH,
        *(f"-{name}" for name in reversed(LLAMA_FLASH)),
    ]
    with_results = found.live[begin + 3]
    assert max(found.live[begin : begin + 12]) - with_results == sum(LLAMA_FLASH.values()) == 67_371_008
    assert found.live[begin + 11] == with_results


def test_padded_heads_are_copied_before_flash_backward() -> None:
    """Open-Llama-3B, 32 heads of 100, padded to 104: neither the output nor its gradient lies as [B, S, N, D]."""
    raw = {**LLAMA_3_8B, "hidden_size": 3200, "num_key_value_heads": 32, "head_dim": 100}
    copy = 2048 * 32 * 104 * 2
    expected = {"grad_out": copy, "out": copy, "softmax_d": 32 * 2048 * 4, "dq_accum": 2048 * 32 * 128 * 4}
    assert only_on_a_gpu(raw, TrainJob(1, 2048, optimizer="none")) == expected


def test_efficient_backward_on_an_a100() -> None:
    """A padded batch keeps flash out: 16 tiles of 128 x 128 in fp32 a head, each with a lock of 16 B."""
    expected = {"delta": 32 * 2048 * 4, "workspace": 32 * 16 * (16 + 128 * 128 * 4)}
    assert only_on_a_gpu(LLAMA_3_8B, TrainJob(1, 2048, optimizer="none", padding=True)) == expected


def test_embedding_backward_of_many_tokens() -> None:
    """4096 tokens are sorted; 409 full parts and at most 4096 rows are summed in fp32."""
    found = only_on_a_gpu(LLAMA_3_8B, TrainJob(2, 2048, optimizer="none"))
    parts = 409 + 4096
    assert found == {
        **{name: 2 * n_bytes for name, n_bytes in LLAMA_FLASH.items()},
        **dict.fromkeys(("sorted_indices", "orig_indices", "range", "segment_offsets"), 4096 * 8),
        **dict.fromkeys(("partials_per_segment", "partials_per_segment_offset"), 4096 * 8),
        **dict.fromkeys(("num_of_segments", "num_of_partial_segments"), 8),
        "sort": 2 * 4096 * 8,
        "partial_segment_offset": parts * 8,
        "grad_weight_per_segment": parts * 4096 * 4,
    }


def test_norms_of_gradients() -> None:
    """A layer, the table, the last norm and the head are 12 tensors; the table is 8016 chunks of 65536 elements."""
    plain, clipped = (made(LLAMA_3_8B, TrainJob(1, 64, clip_gradients=clip), "gpu") for clip in (False, True))
    assert (clipped - plain)["output_per_tensor", 12 * 8016 * 4] == 1
    assert not [op for op, _ in made(LLAMA_3_8B, TrainJob(1, 64, clip_gradients=True), "trace") if "per_tensor" in op]


def test_gradients_of_norms_are_summed_by_many_blocks() -> None:
    """Llama-3-8B: 2048 rows of 4096 are 512 values a thread, so 32 blocks share a column, each with 128 fp32 lanes of
    its own; three norms, 32 groups of columns with a counter each. 1023 rows are too few."""
    found = made(LLAMA_3_8B, TrainJob(1, 2048, optimizer="none"), "gpu")
    sums = {key: count for key, count in found.items() if key[0] in SUMS}
    assert sums == {("partial_sums", 32 * 4096 * 128 * 4): 3, ("semaphores", 32 * 4): 3}
    assert not [op for op, _ in made(LLAMA_3_8B, TrainJob(1, 1020, optimizer="none"), "gpu") if op in SUMS]


def test_layer_norm_keeps_moments_in_fp32() -> None:
    """GPT-2 has three norms in one layer: mean and rstd of 1024 tokens take 4 B each, under a trace 2 B."""
    job = TrainJob(1, 1024, optimizer="none")
    gpu, trace = (made(GPT2, job, on) for on in ("gpu", "trace"))
    assert (gpu - trace)["native_layer_norm", 4 * 1024] == (trace - gpu)["native_layer_norm", 2 * 1024] == 6


CHANGES: list[dict[str, Any]] = [{}, {"padding": True}, {"clip_gradients": True}, {"precision": "amp-bf16"}]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_cpu_allocates_what_a_trace_sees(changes: dict[str, Any]) -> None:
    """Nothing of a CUDA kernel is played on a CPU, which only sums in place."""
    job = TrainJob(2, 2048, **changes)
    assert not made(LLAMA_3_8B, job, "cpu") - made(LLAMA_3_8B, job, "trace")
