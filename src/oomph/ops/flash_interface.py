"""transformers' way to the packages flash-attn 2 and 3: what it takes out of padded batches, and what it looks at.

Source: transformers 5.23, modeling_flash_attention_utils.py and integrations/flash_attention.py. How many tokens of a
padded batch are padding is not known: none are taken to be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, grad
from oomph.ops.flash_attn import FlashCall, flash_attn_2, flash_attn_3
from oomph.ops.indexing import contiguous, transpose, view
from oomph.ops.joining import pad_last
from oomph.ops.kernel import run
from oomph.ops.kernel_choice import ALIGNMENT, FLASH_HEAD_DIM
from oomph.ops.slices import slice_axis
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new
from oomph.tape.tape import Tape
from oomph.workspaces import index_put_with_sort

PACKAGES = {"flash_attention_2": flash_attn_2, "flash_attention_3": flash_attn_3}


def flash_attention_forward(query: Sym, key: Sym, value: Sym, mask: Sym | None, call: FlashCall) -> Sym:
    """Mirror flash_attention_forward of q [B, N, S, D] and k, v [B, K, T, D]: the output [B, S, N, D] of flash-attn, as
    the tape's kernel names it.

    Queries, keys and values go there as views [B, S, N, D]; fp32 ones in copies of the dtype of autocast, or of the
    weights. Values narrower than queries are padded in a copy, and the output is cut again. With a mask [B, T] of
    booleans all three are flattened and what is no padding is picked from them, one copy more each, and the output laid
    out over zeros again; the places are looked for in every layer. Of a batch of one row the positions are looked at,
    in every layer too: of several sequences in a row each is attended to on its own. Saves what flash_attn_2 and
    flash_attn_3 save, and the places. Source: transformers 5.23, integrations/flash_attention.py and
    modeling_flash_attention_utils.py.

    q, k, v and output 2·64·2·128·2 B each, log-sum-exp 2·2·64·4 B, random state 16 B:
    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import Given, cost, transposed
    >>> tape = Tape()
    >>> tape.kernel = "flash_attention_2"
    >>> cost(transposed(flash_attention_forward, None, FlashCall()), *[(2, 64, 2, 128)] * 3, tape=tape)
    Cost(allocated=66576, saved=263184, backward=460800)

    Of a padded batch k, v and q are picked at 2·64 places and the output laid out; backward adds up the gradients of
    all three over zeros.
    >>> def padded(q, k, v, mask):
    ...     return transposed(flash_attention_forward, mask, FlashCall())(q, k, v)
    >>> cost(padded, *[(2, 64, 2, 128)] * 3, Given((2, 64), "bool", trains=False), tape=tape).saved
    264220
    """
    length = query.shape[2]
    query = transpose(query, 1, 2)
    key = transpose(key, 1, 2)
    value = transpose(value, 1, 2)
    head_dim, v_head_dim = query.shape[-1], value.shape[-1]
    narrow = not yes(v_head_dim == head_dim)
    if narrow:
        value = pad_last(value, head_dim - v_head_dim)
    attn_output = flash_attention_of_rows(query, key, value, mask, length, call)
    if narrow:
        attn_output = slice_axis(attn_output, -1, 0, v_head_dim)
    return attn_output


def _check(query: Sym) -> None:
    """Refuse what the package refuses."""
    size, kernel = query.shape[-1], query.tape.kernel
    if not yes(size <= FLASH_HEAD_DIM):
        raise UnsupportedError("flash-attn takes heads up to 256 wide.", "Say --attention flash, torch's own.")
    if kernel == "flash_attention_3" and not yes(size % ALIGNMENT == 0):
        raise UnsupportedError("flash-attn 3 takes heads of a multiple of 8.", "Say --attention flash_attention_2.")


def flash_attention_of_rows(
    query_states: Sym, key_states: Sym, value_states: Sym, mask: Sym | None, length: Size, call: FlashCall
) -> Sym:
    """Mirror _flash_attention_forward of q [B, S, N, D] and k, v [B, T, K, D], `length` S: the output [B, S, N, D].

    Saves what flash_attn_2 and flash_attn_3 save, and places of tokens; see flash_attention_forward, which calls it.
    Falcon, GPT-J and GPT-Neo call it themselves. Source: transformers 5.23, modeling_flash_attention_utils.py.

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost
    >>> tape = Tape()
    >>> tape.kernel = "flash_attention_3"
    >>> def rows(q, k, v):
    ...     return flash_attention_of_rows(q, k, v, None, 64, FlashCall(positions=False))
    >>> cost(rows, *[(1, 64, 2, 128)] * 3, tape=tape)
    Cost(allocated=33316, saved=131584, backward=164872)
    """
    _check(query_states)
    tape, batch = query_states.tape, query_states.shape[0]
    flash = PACKAGES[tape.kernel]
    if query_states.dtype == "fp32":
        query_states = in_16_bits(query_states)
        key_states = in_16_bits(key_states)
        value_states = in_16_bits(value_states)
    if mask is not None:
        q, k, v, indices, (cu_seqlens_q, cu_seqlens_k), longest = _upad_input(
            query_states, key_states, value_states, mask, length
        )
        call = replace(call, sequences=batch, longest=longest)
        out = flash(q, k, v, call, (cu_seqlens_q, cu_seqlens_k, None))
        padded = view(rows_to(out, indices, batch * length), (batch, length, *out.shape[1:]))
        del query_states, key_states, value_states  # in the order of the frame's locals
        del cu_seqlens_q, cu_seqlens_k, q, k, v, out, indices
        return padded
    if tape.cu_seq_lens is not None:
        q, k, v = (view(one, (batch * length, *one.shape[2:])) for one in (query_states, key_states, value_states))
        call = _of_sequences(tape, batch * length, call)
        out = flash(q, k, v, call, (tape.cu_seq_lens, tape.cu_seq_lens, None))
        del query_states, key_states, value_states, q, k, v
        return view(out, (batch, length, *out.shape[1:]))
    if call.positions and _is_packed(tape, batch, length):
        q, k, v = (_flat(one) for one in (query_states, key_states, value_states))
        cu_seqlens, longest = _lengths_of_positions(tape, length)
        call = _of_sequences(tape, length, call)
        out = flash(q, k, v, call, (cu_seqlens, cu_seqlens, longest))
        del query_states, key_states, value_states, cu_seqlens, longest, q, k, v
        return view(out, (batch, length, *out.shape[1:]))
    return flash(query_states, key_states, value_states, call)


def in_16_bits(x: Sym) -> Sym:
    """Return states in the dtype in which flash-attn gets fp32 ones: autocast's, else the weights': a copy.

    Saves nothing; backward casts the gradient back. Source: transformers 5.23, integrations/flash_attention.py,
    get_target_dtype; modeling_flash_attention_utils.py, fa_peft_integration_check.

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost, fp32
    >>> tape = Tape()
    >>> tape.loaded = "bf16"
    >>> cost(in_16_bits, fp32(1, 64, 2, 128), tape=tape)
    Cost(allocated=32768, saved=0, backward=65536)
    """
    tape = x.tape
    dtype = tape.autocast.dtype if tape.autocast is not None and not tape.autocast_paused else tape.loaded
    if dtype == "fp32":
        raise UnsupportedError(
            "flash-attn takes 16 bits alone: its package refuses fp32.", "Say --precision bf16 or amp-bf16."
        )
    return cast(x, dtype)


def _unpad_data(mask: Sym) -> tuple[Sym, Sym]:
    """Mirror _get_unpad_data of booleans [B, S]: where tokens are, int64 [T], and sequences begin, int32 [B + 1]."""
    tape, (batch, length) = mask.tape, mask.shape
    seqlens_in_batch = tape.empty((batch,), "int32", op="sum")
    indices = tape.empty((batch * length, 1), "int64", op="nonzero")
    indices = Sym((batch * length,), "int64", (1,), indices.storage)
    longest = tape.empty((), "int32", op="max")
    del longest
    summed = tape.empty((batch,), "int32", op="cumsum")
    cu_seqlens = tape.empty((batch + 1,), "int32", op="constant_pad_nd")
    del summed, seqlens_in_batch
    return indices, cu_seqlens


def _upad_input(
    query_states: Sym, key_states: Sym, value_states: Sym, mask: Sym, length: Size
) -> tuple[Sym, Sym, Sym, Sym, tuple[Sym, Sym], Size]:
    """Mirror _upad_input: what is no padding of all three, where queries are, where sequences begin, the longest.

    Queries that are more or fewer than keys, which attend to another's states, are picked by the last of the keys'
    mask, as if that were theirs.
    """
    indices_k, cu_seqlens_k = _unpad_data(mask)
    k = rows_at(key_states, indices_k)
    v = rows_at(value_states, indices_k)
    if yes(length == key_states.shape[1]):
        return rows_at(query_states, indices_k), k, v, indices_k, (cu_seqlens_k, cu_seqlens_k), length
    tape, batch = mask.tape, mask.shape[0]
    seen = length if yes(length < mask.shape[1]) else mask.shape[1]
    seqlens_in_batch = tape.empty((batch,), "int32", op="sum")
    used_seqlens_in_batch = tape.empty((batch,), "int32", op="sum")
    flat = tape.empty((batch * seen,), "bool", op="clone") if yes(seen < mask.shape[1]) else None
    indices_q = tape.empty((batch * seen, 1), "int64", op="nonzero")
    indices_q = Sym((batch * seen,), "int64", (1,), indices_q.storage)
    del flat
    longest = tape.empty((), "int32", op="max")
    del longest
    summed = tape.empty((batch,), "int32", op="cumsum")
    cu_seqlens_q = tape.empty((batch + 1,), "int32", op="constant_pad_nd")
    del summed
    q = rows_at(query_states, indices_q)
    del seqlens_in_batch
    del indices_k, used_seqlens_in_batch  # locals of the frame around it
    return q, k, v, indices_q, (cu_seqlens_q, cu_seqlens_k), seen


def rows_at(x: Sym, indices: Sym) -> Sym:
    """Mirror _index_first_axis: the rows of x [B, S, N, D], flattened to [B·S, N, D], at indices int64 [T]: a new
    [T, N, D], beside a copy of x where it does not lie in order.

    Saves the indices; backward adds the gradient's rows to zeros as large as x (under a trace to a copy of them), for
    which CUDA sorts the places. Source: transformers 5.23, modeling_flash_attention_utils.py;
    torch/csrc/autograd/FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(rows_at, (2, 8, 2, 64), ids(12))
    Cost(allocated=3072, saved=96, backward=4768)
    """
    batch, length, heads, size = x.shape
    reshaped_tensor = view(x, (batch * length, heads, size))
    node = record("Index", (reshaped_tensor,), _added_to_zeros)
    save(node, indices)
    return made_by(new(x.tape, (indices.shape[0], heads, size), x.dtype, op="index"), node)


def _added_to_zeros(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, dtype) = grad(gradients), node.inputs[0]
    tape = gradient.tape
    zeros = new(tape, shape, dtype, op="new_zeros")
    if tape.on == "trace":
        return [new(tape, shape, dtype, op="index_put")]
    return [run(tape, index_put_with_sort(saved[0].shape[0]), lambda: zeros)]


def rows_to(x: Sym, indices: Sym, rows: Size) -> Sym:
    """Mirror pad_input: zeros [rows, N, D] with x [T, N, D] at indices int64 [T].

    Saves the indices; backward picks the gradient's rows. Source: flash-attn 2.8.4, flash_attn/bert_padding.py,
    IndexPutFirstAxis; transformers 5.23, modeling_flash_attention_utils.py, _pad_input.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, indices: rows_to(x, indices, 16), (12, 2, 64), ids(12))
    Cost(allocated=4096, saved=96, backward=3072)
    """
    node = record("IndexPutFirstAxis", (x,), _picked)
    save(node, indices)
    return made_by(new(x.tape, (rows, *x.shape[1:]), x.dtype, op="zeros"), node)


def _picked(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), tape = node.inputs[0], grad(gradients).tape
    return [new(tape, shape, dtype, op="index")]


def _is_packed(tape: Tape, batch: Size, length: Size) -> bool:
    """Mirror _is_packed_sequence: whether the positions of a batch of one row begin anew, which is looked at."""
    if not yes(batch == 1) or yes(length == 1):
        return False
    counted = tape.empty((length,), "int64", op="arange")
    least = tape.empty((), "int64", op="min")
    increasing_position_sequences = tape.empty((length,), "int64", op="add")
    del counted, least
    difference = tape.empty((1, length), "int64", op="sub")
    absolute = tape.empty((1, length), "int64", op="abs")
    del difference
    total = tape.empty((), "int64", op="sum")
    del absolute
    answer = tape.empty((), "bool", op="_to_copy")
    del total, increasing_position_sequences, answer
    return yes(tape.sequences > 1)


def _of_sequences(tape: Tape, length: Size, call: FlashCall) -> FlashCall:
    """Return a call that knows of how many sequences its tokens are, and how long the longest is."""
    sequences = tape.sequences if yes(length >= tape.sequences) else length
    return replace(call, sequences=sequences, longest=(length + sequences - 1) // sequences)


def _flat(x: Sym) -> Sym:
    """Mirror x.contiguous().view(-1, N, D)."""
    batch, length, heads, size = x.shape
    return view(contiguous(x), (batch * length, heads, size))


def _lengths_of_positions(tape: Tape, length: Size) -> tuple[Sym, Sym]:
    """Mirror prepare_fa_kwargs_from_position_ids: where sequences begin, int32, and the longest, which stays a tensor
    on the device and is kept by the node.
    """
    sequences = tape.sequences if yes(length >= tape.sequences) else length
    least = tape.empty((), "int64", op="min")
    begins = tape.empty((length,), "bool", op="eq")
    del least
    indices_q = tape.empty((sequences, 1), "int64", op="nonzero")
    del begins
    narrow = tape.empty((sequences,), "int32", op="_to_copy")
    end = tape.empty((1,), "int32", op="lift_fresh")
    cu_seq_lens_q = tape.empty((sequences + 1,), "int32", op="cat")
    del end, narrow
    differences = tape.empty((sequences,), "int32", op="diff")
    max_length_q = tape.empty((), "int32", op="max")
    del differences, indices_q
    return cu_seq_lens_q, max_length_q
