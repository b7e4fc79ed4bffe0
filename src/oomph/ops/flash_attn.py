"""flash_attn_func and flash_attn_varlen_func of the packages flash-attn 2 and flash-attn 3.

Shapes [B, S, N, D] of queries and [B, S, K, D] of keys and values; without padding, all sequences one behind the other,
[T, N, D] and [T, K, D], with the places where each begins: `lengths`, int32 [sequences + 1]. Their kernels allocate in
C++, their autograd functions are Python. All 16 bits wide, heads up to 256; numbers of an H100.

Source: flash-attn 2.8.4 (commit 0251105), flash_attn/flash_attn_interface.py and csrc/flash_attn/flash_api.cpp of 2,
hopper/flash_attn_interface.py and hopper/flash_api.cpp of 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.attention_workspaces import SEQUENCE_TILE, key_splits, padded_head_size
from oomph.ops.elementwise import grad
from oomph.ops.indexing import reshaped, swapped
from oomph.ops.joining import pad_last
from oomph.ops.kernel import let_go
from oomph.ops.kernel_choice import ALIGNMENT
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size, ceil_to, yes
from oomph.tape.sym import Sym, new, view_of
from oomph.workspaces import parts_of

# hopper/flash_api.cpp: round_up_headdim, mha_bwd's tiles of queries and keys by that (compute capability 9.0), and what
# the scheduler's numbers for each sequence are rounded up to.
HEAD_SIZES = (64, 96, 128, 192, 256)
KEY_TILES = {64: 128, 96: 128, 128: 128, 192: 96, 256: 80}
QUERY_TILE = 64
SCHEDULED = 4

Lengths = tuple[Sym, Sym, Any]  # where queries and where keys begin, and what else the node holds of them


@dataclass(frozen=True)
class FlashCall:
    """The other arguments of a call: dropout's rate, whether queries see earlier keys alone, through a `window`, scores
    bounded by a tanh, whether position ids come along, whether heads have `sinks`, and of how many sequences [T, N, D]
    is, the longest of how many tokens.
    """

    rate: float = 0.0
    causal: bool = True
    window: bool = False
    softcap: bool = False
    positions: bool = True
    sinks: bool = False
    sequences: Size = 0
    longest: Size = 0


def flash_attn_2(query: Sym, key: Sym, value: Sym, call: FlashCall, lengths: Lengths | None = None) -> Sym:
    """Return FlashAttnFunc of q, k and v, or FlashAttnVarlenFunc with `lengths`.

    Heads whose size is no multiple of 8 are padded in copies, which are saved in their place, and the result is a part
    of a wider one. Saves q, k, v and the output, the fp32 log-sum-exp [B, N, S] or [N, T], the lengths and the random
    state. Where few blocks are at work the keys are split, as torch's own flash attention does; not with lengths.
    Backward adds up the gradient of q in fp32, sequences padded to 128 and heads to the kernel's tile (with lengths 128
    more rows for each sequence); of fewer key heads it makes gradients for all heads, then sums. Nothing is copied into
    another order, as torch does. Source: flash-attn 2.8.4, mha_fwd, mha_varlen_fwd, mha_bwd, mha_varlen_bwd.

    q, k, v and output 64·2·128·2 B each, log-sum-exp 2·64·4 B, random state 16 B; in backward three gradients,
    2·128·4 B of sums and 128·2·128·4 B of q's gradient.
    >>> from oomph.tape.testing import cost
    >>> cost(lambda q, k, v: flash_attn_2(q, k, v, FlashCall()), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33296, saved=131600, backward=230400)
    """
    node = record("FlashAttnFunc", (query, key, value), _backward_2)
    size = query.shape[-1]
    with query.tape.no_grad():
        if not yes(size % ALIGNMENT == 0):
            missing = ALIGNMENT - size % ALIGNMENT
            query = pad_last(query, missing)
            key = pad_last(key, missing)
            value = pad_last(value, missing)
        out_padded, softmax_lse, rng_state = _forward_2(query, key, call)
    if node is not None:
        node.context, node.in_python = (call, None if lengths is None else lengths[2]), True
    cu_seqlens = () if lengths is None else lengths[:2]
    save(node, query, key, value, out_padded, softmax_lse, *cu_seqlens, rng_state)
    del query, key, value  # the arguments of a frame die before its other locals
    out = _part(out_padded, size)
    del out_padded, softmax_lse, rng_state
    return made_by(out, node)


def _part(x: Sym, size: Size) -> Sym:
    """Return x[..., :size], without history: a view."""
    return view_of(x, (*x.shape[:-1], size), x.strides)


def _forward_2(query: Sym, key: Sym, call: FlashCall) -> tuple[Sym, Sym, Sym]:
    """Mirror mha_fwd and mha_varlen_fwd: output, log-sum-exp and random state."""
    tape, (*first, length, heads, size), kv_heads = query.tape, query.shape, key.shape[-2]
    if not first:
        out = like(query, query.dtype, "empty_like")
        return out, new(tape, (heads, length), "fp32", op="softmax_lse"), new(tape, (2,), "int64", op="rng_state")
    batch = first[0]
    one = not call.rate and not call.window and yes(length == 1) and not yes(heads == kv_heads)
    if one:  # heads that share a key become queries
        times = heads // kv_heads
        query = swapped(reshaped(query, (batch, kv_heads, times, size)), 1, 2)
        heads, length = kv_heads, times
    out = like(query, query.dtype, "empty_like")
    softmax_lse = new(tape, (batch, heads, length), "fp32", op="softmax_lse")
    splits = 1 if call.rate else key_splits(batch, heads, length, size, key.shape[1])
    if splits > 1:
        shape = (splits, batch, heads, length)
        softmax_lse_accum = new(tape, shape, "fp32", op="softmax_lse_accum")
        out_accum = new(tape, (*shape, padded_head_size(size)), "fp32", op="out_accum")
    rng_state = new(tape, (2,), "int64", op="rng_state")
    if splits > 1:
        del out_accum, softmax_lse_accum
    if one:
        out = reshaped(swapped(out, 1, 2), (batch, 1, heads * length, size))
        softmax_lse = reshaped(softmax_lse, (batch, heads * length, 1))
    return out, softmax_lse, rng_state


def _backward_2(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    query, key, value = saved[:3]
    size, dout_padded = grad(gradients).shape[-1], grad(gradients)
    dq, dk, dv = (like(one, one.dtype, "empty_like") for one in (query, key, value))
    if not yes(size % ALIGNMENT == 0):
        dout_padded = pad_last(dout_padded, ALIGNMENT - size % ALIGNMENT)
    _added_up_2(query, key, node.context[0])
    del query, key, value
    let_go(saved)
    del dout_padded
    gradients.clear()  # a tuple of arguments, before hooks run
    return [_part(one, size) for one in (dq, dk, dv)]


def _added_up_2(query: Sym, key: Sym, call: FlashCall) -> None:
    """Mirror mha_bwd and mha_varlen_bwd: what is made beside the gradients."""
    tape, (*first, length, heads, size), kv_heads = query.tape, query.shape, key.shape[-2]
    if first:
        rows: tuple[Size, ...] = (first[0], ceil_to(length, SEQUENCE_TILE))
        softmax_d = new(tape, (first[0], heads, rows[1]), "fp32", op="softmax_d")
    else:
        rows = (length + SEQUENCE_TILE * call.sequences,)
        softmax_d = new(tape, (heads, *rows), "fp32", op="softmax_d")
    dq_accum = new(tape, (*rows, heads, padded_head_size(size)), "fp32", op="dq_accum")
    if not yes(heads == kv_heads):
        shape = (*key.shape[:-2], heads, size)
        dk_expanded = new(tape, shape, key.dtype, op="dk_expanded")
        dv_expanded = new(tape, shape, key.dtype, op="dv_expanded")
        del dv_expanded, dk_expanded
    del dq_accum
    del softmax_d


def flash_attn_3(query: Sym, key: Sym, value: Sym, call: FlashCall, lengths: Lengths | None = None) -> Sym:
    """Return FlashAttnFunc or FlashAttnVarlenFunc of flash-attn 3, as flash_attn_2; it knows no dropout.

    Saves q, k, v, the output, which is contiguous, the fp32 log-sum-exp and the lengths; no random state. Keys are not
    split. Backward adds up the gradient of q in fp32 and holds the log-sum-exp twice, queries padded to a tile of 64
    (for heads up to 64 wide 128, or 96 of capped scores; for those up to 128 that see later keys too 80), heads to 64,
    96, 128, 192 or 256; of fewer key heads it adds up those of keys and values in fp32 too, for the key heads. All are
    held by a Python frame to its end. Source: flash-attn 2.8.4, hopper/flash_api.cpp, mha_fwd, mha_bwd.

    With sinks it is vLLM's, which has fewer numbers for its scheduler and returns the log-sum-exp too, for which torch
    makes a gradient of zeros; the sinks get none. Source: kernels-community, commits 5b37f38 and 0774fcc,
    vllm-flash-attn3, torch-ext/vllm_flash_attn3/flash_attn_interface.py and flash-attn/flash_api.cpp.

    q, k, v and output 64·2·128·2 B each, log-sum-exp 2·64·4 B; for a moment 9 numbers of a scheduler of 4 B; in
    backward three gradients, 2·64·4 B twice, 2·64·128·4 B, and a semaphore of 4 B for each head.
    >>> from oomph.tape.testing import cost
    >>> cost(lambda q, k, v: flash_attn_3(q, k, v, FlashCall()), *[(1, 64, 2, 128)] * 3)
    Cost(allocated=33316, saved=131584, backward=164872)
    """
    node = record("FlashAttnFunc", (query, key, value), _backward_3)
    tape, (*first, length, heads, _) = query.tape, query.shape
    out = new(tape, query.shape, query.dtype, op="empty")
    softmax_lse = new(tape, (*first, heads, length), "fp32", op="softmax_lse")
    if not first or call.causal or call.window:
        sequences = first[0] if first else call.sequences
        vectors = (0 if first else 2) + (0 if call.window else 1) + (1 if call.causal or call.window else 0)
        numbers = vectors * ceil_to(sequences, SCHEDULED)
        if call.sinks:
            numbers = 0 if first else sequences
        new(tape, (1 + numbers,), "int32", op="tile_count_semaphore")
    if node is not None:
        node.context, node.in_python = (call, None if lengths is None else lengths[2]), True
    save(node, query, key, value, out, softmax_lse, *(() if lengths is None else lengths[:2]))
    del softmax_lse
    return made_by(out, node)


def _backward_3(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    query, key, value = saved[:3]
    zeros = like(saved[4], "fp32", "zeros") if node.context[0].sinks else None  # for the second output
    dq, dk, dv = (like(one, one.dtype, "empty_like") for one in (query, key, value))
    _added_up_3(query, key, node.context[0])
    del query, key, value
    let_go(saved)
    del zeros  # the last of the arguments
    gradients.clear()
    return [_part(one, one.shape[-1]) for one in (dq, dk, dv)]


def _added_up_3(query: Sym, key: Sym, call: FlashCall) -> None:
    """Mirror mha_bwd: what is made beside the gradients."""
    tape, (*first, length, heads, size), kv_heads = query.tape, query.shape, key.shape[-2]
    width = next(each for each in HEAD_SIZES if yes(size <= each))
    rows, columns = _query_tile(width, call), KEY_TILES[width]
    sequences, longest = (first[0], length) if first else (call.sequences, call.longest)
    queries = ceil_to(length if first else length + sequences * rows, rows)
    keys = ceil_to(key.shape[-3] if first else key.shape[-3] + sequences * columns, columns)
    softmax_d = new(tape, (*first, heads, queries), "fp32", op="softmax_d")
    rest = [
        new(tape, (*first, heads, queries), "fp32", op="softmax_lse_log2"),
        new(tape, (*first, heads, queries * width), "fp32", op="dq_accum"),
    ]
    if not yes(heads == kv_heads):
        rest += [new(tape, (*first, kv_heads, keys * width), "fp32", op=name) for name in ("dk_accum", "dv_accum")]
    new(tape, (parts_of(longest, rows), sequences, heads), "int32", op="dq_semaphore")
    while rest:
        rest.pop()
    del softmax_d


def _query_tile(width: int, call: FlashCall) -> int:
    """Return kBlockM_sm90: 64 but for narrow heads and full attention."""
    narrow, middle = HEAD_SIZES[0], HEAD_SIZES[2]
    if width == narrow:
        return 96 if call.causal and not call.window and call.softcap else 128
    full = width == middle and not (call.causal or call.window or call.softcap)
    return 80 if full else QUERY_TILE
