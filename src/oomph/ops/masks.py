"""Attention masks as transformers builds them: small comparisons of positions, broadcast to [B, 1, S, T].

S queries, T keys. Without padding, packing or a window shorter than the keys, sdpa needs no mask at all; with one it
gets booleans, which torch turns into numbers in every layer again (see sdpa.py). The eager kernel always gets numbers.
Source: transformers 5.23, masking_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph.job_words import FLASH_ATTN
from oomph.ops.elementwise import cast, result, unary
from oomph.ops.indexing import expand
from oomph.ops.joining import pad_last
from oomph.ops.mask_rules import (
    Indices,
    Rule,
    all_of,
    any_of,
    around,
    at_positions,
    causal,
    everywhere,
    in_chunk,
    in_same_block,
    in_same_sequence,
    left_padding,
    lying,
    standing,
    unpadded,
    within,
)
from oomph.ops.slices import slice_axis
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

if TYPE_CHECKING:
    from oomph.programs.cache import Cache

OF_QUERIES_AND_KEYS = 4  # axes of a mask [B, 1, S, T]


def causal_mask(
    inputs_embeds: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    window: Size | None = None,
    packed: Sym | None = None,
    *,
    may_skip: bool = True,
    looks: bool = True,
    chunked: bool = False,
    blocks: Sym | None = None,
) -> Sym | None:
    """Mirror create_causal_mask or, with a window, create_sliding_window_causal_mask; `chunked`, where windows are
    chunks of a sequence that see nothing of each other, create_chunked_causal_mask. Tokens of an image see each other
    where their `blocks` [B, S] int64 are numbered.

    inputs_embeds [B, S, H]; attention_mask [B, T] int64, 0 where there is padding; packed [B, S] int64, position ids of
    a caller that packs several sequences into a row. A mask [B, 1, S, T] that the caller made is taken as it is.
    Returns None where sdpa can do without, else [B, 1, S, T]:
    booleans (in one sequence's bytes if nothing is padded or packed), for eager in the dtype of the embeddings. With a
    cache, and for a class that does not hand on its position ids (`looks` False), transformers does not look for packed
    sequences; a class that needs a mask in any case says so (`may_skip` False). Beside it positions and comparisons,
    which die with it or before. Saved by the attention that takes it, not here: a mask wants no gradient. Source:
    transformers 5.23, masking_utils.py, create_causal_mask, sdpa_mask, eager_mask.

    The mask of 2·64·64 B; "causal" and its conjunction with "allowed", 64·64 B each; positions as int64, 4·64 and 3;
    "not padded" of 2·64 B twice; twice a sum and an answer that look for padding; one boolean to begin with.
    >>> from oomph.tape.testing import cost, frozen, ids
    >>> made = []
    >>> cost(lambda x, padding: made.append(causal_mask(x, padding, None)), frozen(2, 64, 8), ids(2, 64))
    Cost(allocated=18731, saved=0, backward=0)
    >>> made[0].shape
    (2, 1, 64, 64)

    Packed, beside the 3,235 B of the search (see packed_sequences): the mask of 2·64·64 B, as large "causal", "in the
    same sequence" and its conjunction with the first boolean; numbers of sequences and positions, int64 of 2·64 twice
    each; the plain positions, 4·64 and 3; one boolean to begin with.
    >>> cost(lambda x, ids: causal_mask(x, None, None, packed=ids), frozen(2, 64, 8), ids(2, 64))
    Cost(allocated=42172, saved=0, backward=0)
    """
    tape, (batch, q_length) = inputs_embeds.tape, inputs_embeds.shape[:2]
    if attention_mask is not None and len(attention_mask.shape) == OF_QUERIES_AND_KEYS:
        return attention_mask
    if attention_mask is not None:
        attention_mask = cast(attention_mask, "bool")
    q_offset: Size | Sym = 0
    kv_length, kv_offset = q_length if attention_mask is None else attention_mask.shape[-1], 0
    may_skip, packed_sequence_mask = may_skip and tape.kernel != "eager", None
    if past_key_values is not None:
        q_offset, kv_length, kv_offset = past_key_values.mask_sizes(q_length, window)
        may_skip = may_skip and not (past_key_values.is_static and yes(q_length == 1))
    elif attention_mask is None and looks:
        told_apart = packed is not None and not yes(tape.sequences == 1)
        packed_sequence_mask = packed_sequences(tape, batch, q_length, told_apart)
    rule = causal if window is None else all_of(within, causal)
    if chunked and window is not None:
        left_padding_tokens = left_padding(tape, batch, attention_mask)
        rule = all_of(in_chunk(left_padding_tokens), causal)
    if packed is not None and packed_sequence_mask is not None:
        rule = all_of(in_same_sequence(packed_sequence_mask), at_positions(rule, packed))
        may_skip = False
    if tape.kernel in FLASH_ATTN:
        return _flash_mask(attention_mask, kv_length)
    if blocks is not None:
        rule, may_skip = any_of(rule, in_same_block(blocks)), False
    lengths = (q_length, kv_length, q_offset, kv_offset)
    if tape.kernel == "eager":
        return _eager_mask(tape, batch, lengths, rule, attention_mask, window, inputs_embeds.dtype)
    return _sdpa_mask(tape, batch, lengths, rule, attention_mask, window, may_skip)


def image_blocks(token_type_ids: Sym) -> Sym:
    """Mirror get_block_sequence_ids_for_mask: the number of each token's image, -1 of text: int64 [B, S].

    Booleans of 2·8 B three times and of 2·9 B; numbers as int32 and three times as int64; a scalar. Nothing is saved.
    Source: transformers 5.23, models/gemma3/modeling_gemma3.py.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(image_blocks, ids(2, 8))
    Cost(allocated=522, saved=0, backward=0)
    """
    tape, (batch, length) = token_type_ids.tape, token_type_ids.shape
    is_image = tape.empty((batch, length), "bool", op="eq")
    is_previous_image = tape.empty((batch, length + 1), "bool", op="constant_pad_nd")
    others = tape.empty((batch, length), "bool", op="bitwise_not")
    new_image_start = tape.empty((batch, length), "bool", op="bitwise_and")
    del others
    numbers = tape.empty((batch, length), "int32", op="_to_copy")
    sums = tape.empty((batch, length), "int64", op="cumsum")
    del numbers
    group_ids = tape.empty((batch, length), "int64", op="sub")
    del sums
    text = tape.empty((), "int64", op="scalar_tensor")
    block_sequence_ids = tape.empty((batch, length), "int64", op="where")
    del text
    del is_image, is_previous_image, new_image_start, group_ids
    return block_sequence_ids


def window_with_images(inputs_embeds: Sym, blocks: Sym) -> Sym:
    """Mirror what create_masks_for_vision_model makes for layers with a window: booleans [B, 1, S, S], for eager
    numbers, of tokens that are in it and earlier or of the same image, by the numbers `blocks` [B, S] int64.

    Made by vmap, which begins with booleans for each query where masks of indices begin with one. Saved by attention,
    not here. Source: transformers 5.23, models/gemma3/modeling_gemma3.py.

    Nine booleans of 8·8 B, three of 8 B; positions as int64, 7·8 and 2, and the numbers of blocks looked up, 2·8.
    >>> from oomph.tape.testing import cost, frozen, ids
    >>> cost(window_with_images, frozen(1, 8, 4), ids(1, 8))
    Cost(allocated=1000, saved=0, backward=0)
    """
    tape, (batch, length) = inputs_embeds.tape, inputs_embeds.shape[:2]
    either = any_of(causal, in_same_block(blocks), vmapped=True)
    rule = all_of(either, within, vmapped=True)
    lengths = (length, length, 0, 0)
    if tape.kernel == "eager":
        return _eager_mask(tape, batch, lengths, rule, None, None, inputs_embeds.dtype)
    mask = _sdpa_mask(tape, batch, lengths, rule, None, None, may_skip=False)
    assert mask is not None
    return mask


def bidirectional_mask(
    inputs_embeds: Sym, attention_mask: Sym | None, window: Size | None = None, holes: bool | None = None
) -> Sym | None:
    """Mirror create_bidirectional_mask or, with a window to either side, create_bidirectional_sliding_window_mask: None
    where nothing is padding and the window is longer than the sequence, else booleans [B, 1, S, T], for eager numbers.

    inputs_embeds [B, S, H]; attention_mask [B, T] int64 of what is looked at, 0 where there is padding: of the same
    tokens, or of an encoder's; whether it has `holes` is as with the batch's unless it is said. Saved by the attention
    that takes it, not here. Source: transformers 5.23, masking_utils.py, create_bidirectional_mask.

    The mask of 2·64·64 B; "any query" and its conjunction with a first boolean, 64 B each; positions as int64, 4·64 and
    3; "not padded" of 2·64 B twice; an answer that looks for padding; the first boolean.
    >>> from oomph.tape.testing import cost, frozen, ids
    >>> made = []
    >>> cost(lambda x, padding: made.append(bidirectional_mask(x, padding)), frozen(2, 64, 8), ids(2, 64)).allocated
    10650
    >>> made[0].shape
    (2, 1, 64, 64)
    """
    tape, (batch, length) = inputs_embeds.tape, inputs_embeds.shape[:2]
    holes = tape.holes if holes is None else holes
    if attention_mask is None and (window is None or yes(length < window) or tape.kernel in FLASH_ATTN):
        return None
    if attention_mask is not None:
        attention_mask = cast(attention_mask, "bool")
        if tape.kernel in FLASH_ATTN:
            return _flash_mask(attention_mask, attention_mask.shape[1])
        answer = tape.empty((), "bool", op="all")
        del answer
        if not holes and (window is None or yes(length < window)):
            return None
    rule = everywhere if window is None else all_of(around, everywhere)
    lengths = (length, length if attention_mask is None else attention_mask.shape[1], 0, 0)
    if tape.kernel == "eager":
        return _eager_mask(tape, batch, lengths, rule, attention_mask, None, inputs_embeds.dtype)
    return _sdpa_mask(tape, batch, lengths, rule, attention_mask, None, may_skip=False)


def recurrent_mask(inputs_embeds: Sym, attention_mask: Sym | None) -> Sym | None:
    """Mirror create_recurrent_attention_mask: what a layer that reads tokens in order multiplies its input with.

    inputs_embeds [B, S, H]; attention_mask [B, S] int64, 0 where there is padding, which is what is returned; None
    where there is none, or one token. Whether all tokens count is looked at. Source: transformers 5.23,
    masking_utils.py.

    >>> from oomph.tape.testing import cost, frozen, ids
    >>> cost(recurrent_mask, frozen(2, 64, 8), ids(2, 64)).allocated
    129
    """
    if attention_mask is None or yes(inputs_embeds.shape[1] == 1):
        return None
    tape = attention_mask.tape
    counts = tape.empty(attention_mask.shape, "bool", op="eq")
    answer = tape.empty((), "bool", op="all")
    del counts, answer
    return attention_mask if tape.holes else None


def triangle(tape: Tape, length: Size) -> Sym:
    """Return torch.tril(torch.ones(length, length, dtype=bool)): booleans [L, L], beside the ones for a moment.

    Source: ATen/native/cuda/TriangularOps.cu.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: triangle(x.tape, 16), frozen(1)).allocated
    512
    """
    ones = tape.empty((length, length), "bool", op="ones")
    return unary(ones, "tril")


Lengths = tuple[Size, Size, "Size | Sym", Size]


def _sdpa_mask(
    tape: Tape, batch: Size, lengths: Lengths, rule: Rule, padding: Sym | None, window: Size | None, may_skip: bool
) -> Sym | None:
    """Mirror sdpa_mask: booleans, or None where they are not needed."""
    q_length, kv_length, _, kv_offset = lengths
    padding_mask = padding
    if padding is not None and yes(kv_length + kv_offset > padding.shape[-1]):
        padding_mask = pad_last(padding, kv_length + kv_offset - padding.shape[-1])
    if may_skip and _not_needed(padding_mask, lengths, window):
        return None
    if padding_mask is not None:
        rule = all_of(rule, unpadded(padding_mask))
    batch_arange = tape.empty((batch,), "int64", op="arange")
    head_arange = tape.empty((1,), "int64", op="arange")
    q_arange = unary(tape.empty((q_length,), "int64", op="arange"), "add")
    kv_arange = unary(tape.empty((kv_length,), "int64", op="arange"), "add")
    mask = rule(Indices(batch_arange, head_arange, keys=lying(kv_arange), queries=standing(q_arange)))
    return expand(mask, (batch, 1, q_length, kv_length))


def _flash_mask(padding: Sym | None, kv_length: Size) -> Sym | None:
    """Mirror flash_attention_mask: what is padding, booleans [B, T], where it is looked for and any found."""
    if padding is None:
        return None
    if not yes(padding.shape[1] == kv_length):
        return slice_axis(padding, 1, 0, kv_length) if yes(padding.shape[1] > kv_length) else padding
    answer = padding.tape.empty((), "bool", op="all")
    del answer
    return padding if padding.tape.holes else None


def _eager_mask(
    tape: Tape, batch: Size, lengths: Lengths, rule: Rule, padding: Sym | None, window: Size | None, dtype: str
) -> Sym:
    """Mirror eager_mask: 0 where allowed, the lowest number elsewhere."""
    mask = _sdpa_mask(tape, batch, lengths, rule, padding, window, may_skip=False)
    if mask is None:
        raise AssertionError("a mask that may not be skipped was skipped")
    zero = tape.empty((), dtype, op="zeros")
    lowest = tape.empty((), dtype, op="scalar_tensor")
    numbers = result("where", mask.shape, dtype, mask)
    del lowest, zero, mask
    return numbers


def as_numbers(mask: Sym, dtype: str) -> Sym:
    """Return a boolean mask as 0 and the lowest number of a dtype; the two are scalars for a moment.

    Source: transformers 5.23, models/falcon/modeling_falcon.py, FalconModel.forward.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda mask: as_numbers(mask, "bf16"), Given((1, 1, 64, 64), "bool", trains=False)).allocated
    8196
    """
    zero = mask.tape.empty((), dtype, op="full")
    lowest = mask.tape.empty((), dtype, op="scalar_tensor")
    numbers = result("where", mask.shape, dtype, mask)
    del lowest, zero
    return numbers


def _not_needed(padding_mask: Sym | None, lengths: Lengths, window: Size | None) -> bool:
    """Mirror _ignore_causal_mask_sdpa: is_causal says it all. Padded batches are looked at and need one."""
    q_length, kv_length, q_offset, _ = lengths
    if padding_mask is not None and yes(padding_mask.shape[-1] > kv_length):
        mask_indices = unary(padding_mask.tape.empty((kv_length,), "int64", op="arange"), "add")
        padding_mask = padding_mask.tape.empty((padding_mask.shape[0], *mask_indices.shape), "bool", op="index")
    if window is not None and yes(kv_length >= window):
        return False
    if (yes(q_length == 1) or yes(kv_length == q_length)) and not _has_holes(padding_mask):
        return True
    at_start = not isinstance(q_offset, Sym) and yes(q_offset == 0)
    return at_start and not _has_holes(None if padding_mask is None else slice_axis(padding_mask, 1, 0, q_length))


def _has_holes(padding_mask: Sym | None) -> bool:
    """Mirror fast_all, which sums and compares; a job with padding has some, one with a mask may have none."""
    if padding_mask is None:
        return False
    total = padding_mask.tape.empty((), "int64", op="sum")
    equal = padding_mask.tape.empty((), "bool", op="eq")
    del total, equal
    return padding_mask.tape.holes


def packed_sequences(tape: Tape, batch: Size, length: Size, packed: bool) -> Sym | None:
    """Mirror find_packed_sequence_indices: small int64 tensors that look for packed sequences in positions [B, S].

    Returns the number of every token's sequence in its row, int64 [B, S], or None where each row holds one sequence:
    `packed` False, or one token. Nothing else stays. Source: transformers 5.23, masking_utils.py,
    find_packed_sequence_indices.

    Int64 [B, 1], [B, S + 1], [B, S] twice, booleans [B, S] and [B], and the answer:
    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x: packed_sequences(x.tape, *x.shape, packed=True), ids(2, 64))
    Cost(allocated=3235, saved=0, backward=0)
    """
    first_dummy_value = tape.empty((batch, 1), "int64", op="sub")
    joined = tape.empty((batch, length + 1), "int64", op="cat")
    position_diff = tape.empty((batch, length), "int64", op="sub")
    del joined
    differs = tape.empty((batch, length), "bool", op="ne")
    packed_sequence_mask = tape.empty((batch, length), "int64", op="cumsum")
    del differs
    last = tape.empty((batch,), "bool", op="eq")
    answer = tape.empty((), "bool", op="all")
    del last, answer
    del first_dummy_value, position_diff
    return packed_sequence_mask if packed and not yes(length == 1) else None
