"""What CUDA kernels allocate inside an operation, beside its results: buffers from torch's allocator that die with it.

A trace on tensors without memory cannot see them. Each rule gives the steps of one operation in order: a `Buffer` is
allocated, `Freed` goes early, `OUTPUTS` is where the results are allocated; what is left dies at the end, last first.
Sizes may be symbolic: a rule uses only + - * // and asks `yes` before it branches.

Shape letters: B batch, N heads, K key/value heads, S sequence, D head size, T tokens, V vocabulary, H hidden.

Some depend on the processor's size; a tape does not know its device, so they are those of an H100, whose recorded
events equal these one by one (measurements/recordings, tests/test_recordings.py).

Not modelled, because only the library knows or because they are small: cuDNN attention's workspace, histograms of
sorts and scans (under 2 % of the sorted arrays), the splits of attention for a single query (some hundred KiB), the
tables of pointers and sizes that a grouped product hands its kernel (some hundred bytes an expert).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from oomph.dtypes import BITS
from oomph.stream import ROUND
from oomph.tape.sizes import Size, ceil_to, number, product, yes

SEQUENCE_TILE = 128  # flash_api.cpp mha_bwd: sequences are padded to it in the accumulators
HEAD_TILE, LARGE_HEAD_TILE = 32, 64  # the same for head sizes, up to 128 and above
SMALL_HEAD = 128

FEW_TOKENS = 3072  # Embedding.cu: up to here one kernel adds row by row, without sorting
ROWS_PER_THREAD = 10  # EmbeddingBackwardKernel.cu NROWS_PER_THREAD

SMALL_SORT = 4096  # SortingCommon/Sort.cpp should_use_small_sort: up to here numbers are sorted where they are

CHUNK = 65536  # MultiTensorApply.cuh kChunkSize

MULTIPROCESSORS, THREADS_EACH = 132, 2048  # H100 and H200; an A100 has 108

# Reduce.cuh: threads of a block per element of a vector load, what a thread sums up at least and at most
BLOCK_THREADS, WARP, LEAST_VALUES, MOST_VALUES = 512, 32, 16, 256
VECTORS = (4, 2, 1)  # elements that are loaded at once, where the width of a row allows it

QUERY_BLOCK = 64  # flash_api.cpp set_params_splitkv
SPLITS_ALLOWED = 128  # num_splits_heuristic: the most, and
NEARLY_BUSY = 8, 10  # the share of the processor from which on nothing is split

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


def flash_forward(batch: Size, heads: Size, length: Size, head_size: Size, keys: Size) -> tuple[Step, ...]:
    """Return the steps of flash attention's forward without dropout: none, but for few and short sequences.

    Where batch, heads and blocks of 64 queries do not fill the processor, the keys are split, and every split has an
    output [B, N, S, D] in fp32, D padded to the kernel's tile, and its log-sum-exp, which are then joined. They come
    after output and log-sum-exp and before the random state. A single query is left out: its splits are small.

    Source: torch 2.13, ATen/native/transformers/cuda/flash_attn/flash_api.cpp, set_params_splitkv.

    >>> [step.n_bytes for step in flash_forward(1, 9, 1024, 64, 1024) if isinstance(step, Buffer)]
    [147456, 9437184]
    >>> flash_forward(1, 32, 2048, 128, 2048)
    (Outputs(),)
    """
    processors = 2 * MULTIPROCESSORS  # two blocks of 128 threads on each
    blocks = batch * heads * _parts(length, QUERY_BLOCK)
    share, of = NEARLY_BUSY
    if yes(length == 1) or not yes(blocks * of < share * processors):
        return (OUTPUTS,)
    narrow, wide = yes(head_size <= 64), yes(head_size > SMALL_HEAD)
    splits = _splits(blocks, _parts(keys, 256 if narrow else 64 if wide else 128), processors)
    if splits == 1:
        return (OUTPUTS,)
    padded_head = ceil_to(head_size, LARGE_HEAD_TILE if wide else HEAD_TILE)
    return (
        Buffer("softmax_lse_accum", (splits, batch, heads, length), "fp32"),
        Buffer("out_accum", (splits, batch, heads, length, padded_head), "fp32"),
        OUTPUTS,
        Freed("softmax_lse_accum"),
    )


def _splits(blocks: Size, key_blocks: Size, processors: int) -> int:
    """Return the smallest number of splits that keeps the processor nearly as busy as the best (num_splits_heuristic).

    Hangs on the very numbers, so they are asked for one by one: what was played holds for jobs with the same.
    """
    count, most = _exactly(blocks), _exactly(key_blocks)
    busy: dict[int, float] = {}
    for splits in range(1, min(SPLITS_ALLOWED, processors, most) + 1):
        if splits == 1 or -(-most // splits) != -(-most // (splits - 1)):
            waves = count * splits / processors
            busy[splits] = waves / -(-count * splits // processors)
    return next(splits for splits, share in busy.items() if share >= 0.85 * max(busy.values()))


def _exactly(size: Size) -> int:
    """Return the number of a size in the job at hand, which what is played then depends on."""
    found = number(size)
    yes(size == found)
    return found


def column_sum(rows: Size, columns: Size) -> tuple[Step, ...]:
    """Return the steps of the sum of [rows, columns] over the rows, as of every gradient of a norm's scale or a bias.

    From some thousand rows on blocks share a column, and each leaves its fp32 sums behind, [blocks, columns], one for
    each of its lanes and vectors: as much as two bytes for every element summed, until there are as many blocks as the
    processor runs at once. Beside them one counter for each group of columns. Both come after the result.

    Source: torch 2.13, ATen/native/cuda/Reduce.cuh, setReduceConfig, global_memory_size, semaphore_size.

    >>> [step.n_bytes for step in column_sum(2048, 768) if isinstance(step, Buffer)]  # a bias of GPT-2, 2 x 1024 tokens
    [12582912, 24]
    >>> column_sum(512, 1024)
    (Outputs(),)
    """
    vector = next(each for each in VECTORS if yes(columns % each == 0))
    width = WARP
    while width > 1 and yes(columns // vector < width):
        width //= 2
    height = BLOCK_THREADS // vector // width
    values = _parts(rows, height)
    if not yes(values >= MOST_VALUES):
        return (OUTPUTS,)
    groups = _parts(columns // vector, width)
    wanted = MULTIPROCESSORS * (THREADS_EACH // (width * height))
    if not yes(groups <= wanted):
        return (OUTPUTS,)
    blocks, least = _parts(values, LEAST_VALUES), _parts(values, MOST_VALUES)
    room = (wanted + groups - 1) // groups
    blocks = blocks if yes(blocks <= room) else room
    blocks = blocks if yes(blocks >= least) else least
    if not yes(blocks > 1):
        return (OUTPUTS,)
    return (
        OUTPUTS,
        Buffer("partial_sums", (blocks, columns, width * vector), "fp32"),
        Buffer("semaphores", (groups,), "int32"),
    )


def efficient_backward(
    batch: Size,
    heads: Size,
    length: Size,
    head_size: Size,
    dtype: str,
    compute_capability: str = "8.0",
    value_size: Size | None = None,
) -> tuple[Step, ...]:
    """Return the steps of memory-efficient attention's backward on compute capability 8.0 and more; N heads for all.
    `value_size` is the head size of values where it differs.

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
    value_size = head_size if value_size is None else value_size
    largest = value_size if yes(value_size > head_size) else head_size
    rows, columns, widest = _tile(half, largest, compute_capability)
    tiles = _parts(length, rows) * _parts(head_size, columns)
    accumulated = tiles * (LOCK_BYTES + rows * columns * BITS["fp32"] // 8)
    if half and widest > rows:
        staged = _key_splits(batch * heads, length, columns) * columns
        widths = ceil_to(head_size, rows) + ceil_to(value_size, rows)
        accumulated = accumulated + staged * widths * (BITS["fp32"] // 8)
    workspace = Buffer("workspace", (batch * heads * accumulated,), "uint8")
    if half:
        return (OUTPUTS, Buffer("delta", (batch, heads, length), "fp32"), workspace)
    return (
        OUTPUTS,
        Buffer("product", (batch, length, heads, value_size), "fp32"),
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


def sort_pairs(count: Size) -> tuple[Step, ...]:
    """Return the steps of torch.sort on one row of int64, after its results: nothing up to 4096 numbers.

    Above, the positions before the sort, int64, and cub's second copy of numbers and positions.

    Source: torch 2.13, ATen/native/cuda/Sort.cpp (should_use_small_sort), SortStable.cu, segmented_sort_large_segments.

    >>> [step.n_bytes for step in sort_pairs(16384) if isinstance(step, Buffer)]
    [131072, 262144]
    """
    if yes(count <= SMALL_SORT):
        return (OUTPUTS,)
    return (OUTPUTS, Buffer("indices", (count,), "int64"), Buffer("sort", (2, count), "int64"))


def index_put_with_sort(count: Size) -> tuple[Step, ...]:
    """Return the steps of adding M rows to places that may repeat, after the zeros they are added to.

    The places, wrapped around (int64 [M], gone early) and as offsets; sorted, with where they stood; and for the sort
    the positions and cub's second copy of both. Source: torch 2.13, ATen/native/cuda/Indexing.cu,
    index_put_with_sort_kernel, computeLinearIndex.

    >>> peak_bytes(index_put_with_sort(16384)) == 6 * 8 * 16384
    True
    """
    return (
        OUTPUTS,
        Buffer("remainder", (count,), "int64"),
        Buffer("linear_index", (count,), "int64"),
        Freed("remainder"),
        Buffer("sorted_indices", (count,), "int64"),
        Buffer("orig_indices", (count,), "int64"),
        Buffer("range", (count,), "int64"),
        Buffer("sort", (2, count), "int64"),
    )


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
    whole = Buffer("B_dq", shape, dtype)
    if not nested:
        return (whole, OUTPUTS)
    scales = (Buffer("absmax_dq", blocks, "fp32"), Buffer("absmax", blocks, "fp32"))
    return (*scales, whole, OUTPUTS, Freed("absmax"), Freed("absmax_dq"))
