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
from oomph.tape.sizes import Size, ceil_to, product, yes

FEW_TOKENS = 3072  # Embedding.cu: up to here one kernel adds row by row, without sorting
ROWS_PER_THREAD = 10  # EmbeddingBackwardKernel.cu NROWS_PER_THREAD
SMALL_SORT = 4096  # SortingCommon/Sort.cpp should_use_small_sort: up to here numbers are sorted where they are
CHUNK = 65536  # MultiTensorApply.cuh kChunkSize
MULTIPROCESSORS, THREADS_EACH = 132, 2048  # H100 and H200; an A100 has 108
# Reduce.cuh: threads of a block per element of a vector load, what a thread sums up at least and at most
BLOCK_THREADS, WARP, LEAST_VALUES, MOST_VALUES = 512, 32, 16, 256
VECTORS = (4, 2, 1)  # elements that are loaded at once, where the width of a row allows it


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
    values = parts_of(rows, height)
    if not yes(values >= MOST_VALUES):
        return (OUTPUTS,)
    groups = parts_of(columns // vector, width)
    wanted = MULTIPROCESSORS * (THREADS_EACH // (width * height))
    if not yes(groups <= wanted):
        return (OUTPUTS,)
    blocks, least = parts_of(values, LEAST_VALUES), parts_of(values, MOST_VALUES)
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


def parts_of(size: Size, tile: int) -> Size:
    """Return how many tiles a size takes.

    >>> parts_of(129, 64)
    3
    """
    return ceil_to(size, tile) // tile


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
    return (Buffer("output_per_tensor", (count * parts_of(largest, CHUNK),), "fp32"), OUTPUTS)


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
    shape: tuple[Size, Size], blocks: tuple[Size, ...], dtype: str, nested: bool, first: str = ""
) -> tuple[Step, ...]:
    """Return the steps of a product with a 4-bit weight [N, K] that no fused kernel takes: it is dequantised first.

    Quantised scales become fp32 twice, as they are and with their offset added. `first` is the dtype that a weight
    becomes before it is cast, as up to 0.49; then the offset is added in place. Source: bitsandbytes 0.50,
    backends/cuda/ops.py, _dequant_linear_fallback; 0.42, autograd/_functions.py, MatMul4Bit.forward.

    >>> steps = dequantised_linear((14336, 4096), (917504,), "bf16", True)
    >>> [step.n_bytes for step in steps if isinstance(step, Buffer)]
    [3670016, 3670016, 117440512]
    """
    whole = Buffer("B_dq", shape, dtype)
    if first:
        cast = (whole, Freed("out")) if first != dtype else ()
        made = Buffer("out", shape, first)
        inner = (Buffer("absmax", blocks, "fp32"), made, Freed("absmax")) if nested else (made,)
        return (*inner, *cast, OUTPUTS)
    if not nested:
        return (whole, OUTPUTS)
    scales = (Buffer("absmax_dq", blocks, "fp32"), Buffer("absmax", blocks, "fp32"))
    return (*scales, whole, OUTPUTS, Freed("absmax"), Freed("absmax_dq"))
