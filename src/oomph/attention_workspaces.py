"""What the CUDA kernels of attention allocate beside their results; see workspaces.py.

Shape letters: B batch, N heads, K key/value heads, S sequence, D head size.
"""

from __future__ import annotations

from oomph.dtypes import BITS
from oomph.tape.sizes import Size, ceil_to, number, yes
from oomph.workspaces import MULTIPROCESSORS, OUTPUTS, Buffer, Freed, Step, parts_of

SEQUENCE_TILE = 128  # flash_api.cpp mha_bwd: sequences are padded to it in the accumulators
HEAD_TILE, LARGE_HEAD_TILE = 32, 64  # the same for head sizes, up to 128 and above
SMALL_HEAD = 128
QUERY_BLOCK = 64  # flash_api.cpp set_params_splitkv
SPLITS_ALLOWED = 128  # num_splits_heuristic: the most, and
NEARLY_BUSY = 8, 10  # the share of the processor from which on nothing is split
LOCK_BYTES = 16  # kernel_backward.h GradQTempStorage: lock, counter, padding
MOST_SPLITS = 200  # attention_backward.cu: staging of key gradients, shared by all batches and heads
SMALL_SHARED_MEMORY = frozenset({"8.6", "8.9", "12.0", "12.1"})  # 99 KiB a block: the 128 x 128 kernel does not fit


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
    padded_head = padded_head_size(head_size)
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
    splits = 1 if yes(length == 1) else key_splits(batch, heads, length, head_size, keys)
    if splits == 1:
        return (OUTPUTS,)
    padded_head = padded_head_size(head_size)
    return (
        Buffer("softmax_lse_accum", (splits, batch, heads, length), "fp32"),
        Buffer("out_accum", (splits, batch, heads, length, padded_head), "fp32"),
        OUTPUTS,
        Freed("softmax_lse_accum"),
    )


def padded_head_size(head_size: Size) -> Size:
    """Return a head size padded to the tile of flash attention's kernels.

    >>> padded_head_size(80), padded_head_size(160)
    (96, 192)
    """
    return ceil_to(head_size, HEAD_TILE if yes(head_size <= SMALL_HEAD) else LARGE_HEAD_TILE)


def key_splits(batch: Size, heads: Size, length: Size, head_size: Size, keys: Size) -> int:
    """Return into how many parts flash attention's forward splits the keys; 1 where its blocks fill the processor.

    >>> key_splits(1, 9, 1024, 64, 1024), key_splits(1, 32, 2048, 128, 2048)
    (4, 1)
    """
    processors = 2 * MULTIPROCESSORS  # two blocks of 128 threads on each
    blocks = batch * heads * parts_of(length, QUERY_BLOCK)
    share, of = NEARLY_BUSY
    if not yes(blocks * of < share * processors):
        return 1
    narrow, wide = yes(head_size <= 64), yes(head_size > SMALL_HEAD)
    return _splits(blocks, parts_of(keys, 256 if narrow else 64 if wide else 128), processors)


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
    tiles = parts_of(length, rows) * parts_of(head_size, columns)
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
    wanted, allowed = parts_of(keys, columns), MOST_SPLITS // blocks
    return wanted if yes(wanted <= allowed) else allowed
