"""What CUDA kernels allocate inside an operation, beside its results: buffers from torch's allocator that die with it.

A trace on tensors without memory cannot see them. Each rule gives the steps of one operation in order: a `Buffer` is
allocated, `Freed` goes early, `OUTPUTS` is where the results are allocated; what is left dies at the end, last first.
Sizes may be symbolic: a rule uses only + - * // and asks `yes` before it branches.

Shape letters: B batch, N heads, K key/value heads, S sequence, D head size, T tokens, V vocabulary, H hidden.

Not modelled, because only the library knows or because they are small: cuDNN attention's workspace, histograms of
sorts and scans (under 2 % of the sorted arrays), partial sums of large reductions (a few MiB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from oomph.dtypes import BITS
from oomph.stream import ROUND
from oomph.tape.sizes import Size, ceil_to, product, yes

SEQUENCE_TILE = 128  # flash_api.cpp mha_bwd: sequences are padded to it in the accumulators
HEAD_TILE, LARGE_HEAD_TILE = 32, 64  # the same for head sizes, up to 128 and above
SMALL_HEAD = 128

FEW_TOKENS = 3072  # Embedding.cu: up to here one kernel adds row by row, without sorting
ROWS_PER_THREAD = 10  # EmbeddingBackwardKernel.cu NROWS_PER_THREAD

CHUNK = 65536  # MultiTensorApply.cuh kChunkSize

LOCK_BYTES = 16  # kernel_backward.h GradQTempStorage: lock, counter, padding
MOST_SPLITS = 200  # attention_backward.cu: staging of key gradients, shared by all batches and heads
SMALL_SHARED_MEMORY = frozenset({"8.6", "8.9", "12.0", "12.1"})  # 99 KiB a block: the 128 x 128 kernel does not fit


@dataclass(frozen=True)
class Buffer:
    """An allocation inside an operation."""

    name: str
    shape: tuple[Size, ...]
    dtype: str

    @property
    def n_bytes(self) -> Size:
        """Bytes asked for.

        >>> Buffer("softmax_d", (1, 32, 2048), "fp32").n_bytes
        262144
        """
        return product(self.shape) * (BITS[self.dtype] // 8)


@dataclass(frozen=True)
class Freed:
    """The end of a buffer before the operation ends."""

    name: str


@dataclass(frozen=True)
class Outputs:
    """Where an operation allocates its results."""


OUTPUTS = Outputs()
Step: TypeAlias = Buffer | Freed | Outputs


def peak_bytes(steps: Sequence[Step]) -> int:
    """Return the most bytes of buffers alive at once, each rounded to 512 B.

    >>> peak_bytes([Buffer("a", (1000,), "uint8"), Freed("a"), OUTPUTS, Buffer("b", (600,), "uint8")])
    1024
    """
    alive: dict[str, int] = {}
    most = 0
    for step in steps:
        if isinstance(step, Buffer):
            alive[step.name] = ceil_to(step.n_bytes, ROUND)
            most = max(most, sum(alive.values()))
        elif isinstance(step, Freed):
            del alive[step.name]
    return most


def flash_backward(
    batch: Size, heads: Size, kv_heads: Size, length: Size, head_size: Size, dtype: str, keys: Size | None = None
) -> tuple[Step, ...]:
    """Return the steps of flash attention's backward; dtype is that of q, k, v, `keys` the key length if it differs.

    The gradient of q is added up in fp32, [B, S, N, D] padded to the kernel's tiles; softmax_d is one fp32 a row. With
    fewer key/value heads the gradients of k and v are made for all N heads and then summed over each group. All come
    after the results dq, dk, dv; the expanded ones die first, then dq_accum, then softmax_d. Before, torch makes
    grad_out and out contiguous as [B, S, N, D], which they are where they come from or go to a transpose(1, 2).

    Source: torch 2.13, ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd, its default way (with
    deterministic algorithms dq_accum exists once per split).

    >>> llama_3_8b = flash_backward(1, 32, 8, 2048, 128, "bf16")
    >>> [step.n_bytes for step in llama_3_8b if isinstance(step, Buffer)]
    [262144, 33554432, 16777216, 16777216]
    """
    keys = length if keys is None else keys
    padded = ceil_to(length, SEQUENCE_TILE)
    padded_head = ceil_to(head_size, HEAD_TILE if yes(head_size <= SMALL_HEAD) else LARGE_HEAD_TILE)
    steps: tuple[Step, ...] = (
        OUTPUTS,
        Buffer("softmax_d", (batch, heads, padded), "fp32"),
        Buffer("dq_accum", (batch, padded, heads, padded_head), "fp32"),
    )
    if yes(kv_heads == heads):
        return steps
    expanded = (batch, keys, heads, head_size)
    return (*steps, Buffer("dk_expanded", expanded, dtype), Buffer("dv_expanded", expanded, dtype))


def efficient_backward(
    batch: Size, heads: Size, length: Size, head_size: Size, dtype: str, compute_capability: str = "8.0"
) -> tuple[Step, ...]:
    """Return the steps of memory-efficient attention's backward on compute capability 8.0 and more; N heads for all.

    After the results: delta, one fp32 a row (for fp32 inputs made from a product as large as the output, which dies
    before the next step), and one workspace in which the gradient of q is added up in fp32 tile by tile, each tile
    with a lock of 16 B. In half precision with head sizes larger than the tile the gradients of k and v are staged
    there too. delta dies last.

    Source: torch 2.13, mem_eff_attention/kernel_backward.h (workspace_size), kernels/cutlassB.h (which tiles) and
    cuda/attention_backward.cu. Where a fp32 tile of 128 x 64 does not fit shared memory, torch takes 64 x 64: the same
    bytes but for padding of S to 64 and the locks.

    >>> [step.n_bytes for step in efficient_backward(2, 12, 1024, 64, "bf16") if isinstance(step, Buffer)]
    [98304, 6297600]
    """
    half = BITS[dtype] < BITS["fp32"]
    rows, columns, widest = _tile(half, head_size, compute_capability)
    tiles = _parts(length, rows) * _parts(head_size, columns)
    accumulated = tiles * (LOCK_BYTES + rows * columns * BITS["fp32"] // 8)
    if half and widest > rows:
        staged = _key_splits(batch * heads, length, columns) * columns * ceil_to(head_size, rows)
        accumulated = accumulated + 2 * staged * (BITS["fp32"] // 8)
    workspace = Buffer("workspace", (batch * heads * accumulated,), "uint8")
    if half:
        return (OUTPUTS, Buffer("delta", (batch, heads, length), "fp32"), workspace)
    return (
        OUTPUTS,
        Buffer("product", (batch, length, heads, head_size), "fp32"),
        Buffer("sum", (batch, length, heads), "fp32"),
        Freed("product"),
        Buffer("delta", (batch, heads, length), "fp32"),
        Freed("sum"),
        workspace,
    )


def _parts(size: Size, tile: int) -> Size:
    return ceil_to(size, tile) // tile


def _tile(half: bool, head_size: Size, compute_capability: str) -> tuple[int, int, int]:
    """Return rows and columns of the kernel taken, and the head size it is made for (dispatch_cutlassB_*_sm80)."""
    small, any_head = compute_capability in SMALL_SHARED_MEMORY, 65536
    if yes(head_size <= 64):
        return 64, 64, 64
    if half and yes(head_size <= 96) and compute_capability in ("8.6", "8.9"):
        return 128, 64, 96
    if yes(head_size <= 128):
        if not half:
            return 128, 64, 128
        return (64, 64, 128) if small else (128, 128, 128)
    return (64 if small else 128), 64, any_head


def _key_splits(blocks: Size, keys: Size, columns: int) -> Size:
    """Return in how many parts the keys are worked on where their gradients need staging."""
    if yes(blocks > MOST_SPLITS):
        return 1
    wanted, allowed = _parts(keys, columns), MOST_SPLITS // blocks
    return wanted if yes(wanted <= allowed) else allowed


def embedding_backward(tokens: Size, vocab: Size, hidden: Size) -> tuple[Step, ...]:
    """Return the steps of a dense embedding gradient [V, H] from T tokens; nothing beside it up to 3072 tokens.

    Above, the ids are sorted with their positions (int64 [T] each, beside it the sort's second copy of both), then
    rows of the same id are added up in parts of ten in fp32: [T / 10 + segments, H], where segments is the largest
    number of different ids there can be. That part is large: with 8192 tokens of a model of width 4096 141 MiB.
    Everything is freed at the end, last first.

    Source: torch 2.13, ATen/native/cuda/Embedding.cu and EmbeddingBackwardKernel.cu, the two-pass way; the fused one of
    2026 is taken only above 30 tokens a row of the table.

    >>> steps = embedding_backward(8192, 128256, 4096)
    >>> [step.n_bytes for step in steps if isinstance(step, Buffer)][-1] == (819 + 8192) * 4096 * 4
    True
    """
    if yes(tokens <= FEW_TOKENS):
        return (OUTPUTS,)
    segments = tokens if yes(tokens <= vocab) else vocab
    parts = tokens // ROWS_PER_THREAD + segments
    return (
        Buffer("sorted_indices", (tokens,), "int64"),
        Buffer("orig_indices", (tokens,), "int64"),
        Buffer("range", (tokens,), "int64"),
        Buffer("sort", (2, tokens), "int64"),
        Freed("sort"),
        Freed("range"),
        OUTPUTS,
        Buffer("segment_offsets", (tokens,), "int64"),
        Buffer("num_of_segments", (), "int64"),
        Buffer("partials_per_segment", (segments,), "int64"),
        Buffer("partials_per_segment_offset", (segments,), "int64"),
        Buffer("num_of_partial_segments", (), "int64"),
        Buffer("partial_segment_offset", (parts,), "int64"),
        Buffer("grad_weight_per_segment", (parts, hidden), "fp32"),
    )


def foreach_norm(count: Size, largest: Size) -> tuple[Step, ...]:
    """Return the steps of torch._foreach_norm over `count` tensors, the largest of so many elements.

    One fp32 per chunk of 65536 elements of the largest tensor, for every tensor: before the results, freed after them.
    Source: torch 2.13, ATen/native/cuda/ForeachReduceOp.cu, foreach_tensor_norm_cuda.

    >>> peak_bytes(foreach_norm(291, 128256 * 4096))  # Llama-3-8B's parameters
    9330688
    """
    return (Buffer("output_per_tensor", (count * _parts(largest, CHUNK),), "fp32"), OUTPUTS)


def dequantised_linear(
    shape: tuple[Size, Size], blocks: tuple[Size, ...], dtype: str, nested: bool
) -> tuple[Step, ...]:
    """Return the steps of a product with a 4-bit weight [N, K] that no fused kernel takes: it is dequantised first.

    Quantised scales become fp32 twice, as they are and with their offset added. Source: bitsandbytes 0.50,
    backends/cuda/ops.py, _dequant_linear_fallback.

    >>> steps = dequantised_linear((14336, 4096), (917504,), "bf16", True)
    >>> [step.n_bytes for step in steps if isinstance(step, Buffer)]
    [3670016, 3670016, 117440512]
    """
    scales = (Buffer("absmax_dq", blocks, "fp32"), Buffer("absmax", blocks, "fp32")) if nested else ()
    return (*scales, Buffer("B_dq", shape, dtype), OUTPUTS)
