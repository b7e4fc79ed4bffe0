"""Kernel workspaces: sizes worked out by hand from torch 2.13's sources, and the same for one job as for many."""

from __future__ import annotations

import pytest

from oomph.attention_workspaces import efficient_backward, flash_backward
from oomph.tape.sizes import Sheet, number
from oomph.workspaces import OUTPUTS, Buffer, Freed, Step, embedding_backward, foreach_norm, peak_bytes


def sizes(steps: tuple[Step, ...]) -> dict[str, int]:
    """The bytes of each buffer."""
    return {step.name: step.n_bytes for step in steps if isinstance(step, Buffer)}


@pytest.mark.parametrize(
    ("head_size", "padded"), [(64, 64), (80, 96), (96, 96), (128, 128), (136, 192), (192, 192), (256, 256)]
)
def test_flash_pads_heads(head_size: int, padded: int) -> None:
    """mha_bwd rounds the head size to 32, above 128 to 64."""
    assert sizes(flash_backward(1, 1, 1, 128, head_size, "bf16"))["dq_accum"] == 128 * padded * 4


def test_flash_pads_sequences() -> None:
    """Sequences are rounded to 128 in both fp32 buffers: 130 becomes 256."""
    found = sizes(flash_backward(3, 4, 4, 130, 64, "fp16"))
    assert found == {"softmax_d": 3 * 4 * 256 * 4, "dq_accum": 3 * 256 * 4 * 64 * 4}


def test_flash_expands_grouped_keys() -> None:
    """With fewer key/value heads dk and dv exist once for all query heads, unpadded, after the results."""
    steps = flash_backward(2, 32, 8, 100, 128, "bf16", keys=300)
    assert steps[0] is OUTPUTS
    assert sizes(steps)["dk_expanded"] == sizes(steps)["dv_expanded"] == 2 * 300 * 32 * 128 * 2


def test_efficient_with_large_shared_memory() -> None:
    """A100, bf16, D=128: tiles of 128 x 128, key gradients in registers; 16 row tiles of 16 B + 64 KiB a head."""
    found = sizes(efficient_backward(1, 32, 2048, 128, "bf16", "8.0"))
    assert found == {"delta": 32 * 2048 * 4, "workspace": 32 * 16 * (16 + 128 * 128 * 4)}


def test_efficient_with_small_shared_memory() -> None:
    """RTX 4090, the same: tiles of 64 x 64, and key gradients staged in 200 // 32 = 6 splits of 64 keys."""
    found = sizes(efficient_backward(1, 32, 2048, 128, "bf16", "8.9"))
    gradient_of_q, staged = 32 * 2 * (16 + 64 * 64 * 4), 2 * 6 * 64 * 128 * 4
    assert found["workspace"] == 32 * (gradient_of_q + staged)


def test_efficient_stages_one_split_at_least() -> None:
    """With more than 200 batches and heads 200 // (B·N) would be none: one split."""
    found = sizes(efficient_backward(16, 16, 256, 128, "bf16", "8.6"))
    assert found["workspace"] == 256 * (4 * 2 * (16 + 16384) + 2 * 1 * 64 * 128 * 4)


def test_efficient_stages_no_more_splits_than_keys() -> None:
    """128 keys are two parts, whatever is allowed."""
    found = sizes(efficient_backward(1, 1, 128, 128, "fp16", "8.6"))
    assert found["workspace"] == 2 * 2 * (16 + 16384) + 2 * 2 * 64 * 128 * 4


def test_efficient_in_fp32() -> None:
    """delta comes from a product as large as the output, gone before the workspace; nothing is staged."""
    steps = efficient_backward(2, 12, 100, 64, "fp32", "8.6")
    found = sizes(steps)
    assert found["product"] == 2 * 100 * 12 * 64 * 4
    assert found["workspace"] == 24 * 2 * (16 + 64 * 64 * 4)
    assert steps.index(Freed("product")) < steps.index(Buffer("delta", (2, 12, 100), "fp32"))


@pytest.mark.parametrize("tokens", [1, 3072])
def test_few_tokens_need_no_sort(tokens: int) -> None:
    """embedding_dense_backward_cuda: up to 3072 tokens one kernel and no buffer."""
    assert embedding_backward(tokens, 32000, 4096) == (OUTPUTS,)


def test_many_tokens_are_sorted_and_summed_in_parts() -> None:
    """3073 tokens: 307 full parts and at most 3073 segments; five int64 a token before, all but the sort stays."""
    steps = embedding_backward(3073, 32000, 1024)
    found = sizes(steps)
    assert found["grad_weight_per_segment"] == (307 + 3073) * 1024 * 4
    assert found["sorted_indices"] == found["orig_indices"] == found["range"] == 3073 * 8
    assert steps.index(Freed("range")) < steps.index(OUTPUTS) < len(steps) - 1


def test_a_small_table_bounds_the_segments() -> None:
    """There are no more different ids than rows."""
    assert sizes(embedding_backward(10_000, 500, 64))["grad_weight_per_segment"] == (1000 + 500) * 64 * 4


def test_foreach_norm() -> None:
    """A float per chunk of 65536 of the largest tensor, for every tensor, before the results."""
    steps = foreach_norm(3, 65537)
    assert sizes(steps) == {"output_per_tensor": 3 * 2 * 4}
    assert steps[-1] is OUTPUTS


def test_peak_counts_rounded_blocks_alive_together() -> None:
    """What was freed early does not count, and every buffer takes whole 512 B."""
    steps = (Buffer("a", (513,), "uint8"), Freed("a"), OUTPUTS, Buffer("b", (1,), "uint8"), Buffer("c", (1,), "uint8"))
    assert peak_bytes(steps) == 1024
    assert peak_bytes((OUTPUTS,)) == 0


@pytest.mark.parametrize(
    "rule",
    [
        lambda batch, length: flash_backward(batch, 32, 8, length, 80, "bf16"),
        lambda batch, length: efficient_backward(batch, 12, length, 64, "bf16"),
        lambda batch, length: efficient_backward(batch, 12, length, 64, "fp32"),
        lambda batch, length: efficient_backward(batch, 4, length, 128, "bf16", "8.9"),
        lambda batch, length: embedding_backward(batch * length, 32000, 512),
    ],
    ids=["flash", "efficient", "efficient fp32", "efficient staged", "embedding"],
)
def test_sizes_may_be_expressions(rule) -> None:
    """Played on expressions a rule gives what it gives for numbers."""
    for batch, length in ((4, 1000), (5, 2048), (6, 4100)):
        sheet = Sheet()
        lifted, alone = rule(sheet.axis(batch), sheet.axis(length)), rule(batch, length)
        assert [type(step) for step in lifted] == [type(step) for step in alone]
        for one, step in zip(alone, lifted, strict=True):
            if isinstance(one, Buffer):
                assert number(step.n_bytes) == one.n_bytes, one.name
