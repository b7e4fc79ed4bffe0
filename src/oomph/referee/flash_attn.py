"""The packages flash-attn 2 and 3 in a trace: their compiled kernels stood for by functions that allocate the same.

transformers' own way to them runs as it is (modeling_flash_attention_utils.py); what it calls is replaced. Each
function here allocates what the package's Python and C++ allocate, in that order, on a H100. Sources, of flash-attn
2.8.4 (commit 0251105): flash_attn/flash_attn_interface.py, flash_attn/bert_padding.py and csrc/flash_attn/flash_api.cpp
for 2; hopper/flash_attn_interface.py and hopper/flash_api.cpp for 3.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN

MULTIPROCESSORS = 132
ALL = -1  # a side of the window that is open
ROWS = 128  # to which 2 pads queries in its accumulators
OF_VLLM = "kernels-community/vllm-flash-attn3"  # what transformers takes for models with sinks
GROUP = 4  # sequences, to whose multiple 3 rounds up in its scheduler's numbers


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step


def _splits(batch: int, heads: int, queries: int, keys: int, width: int) -> int:
    """Return into how many parts keys are split where few blocks are at work (num_splits_heuristic)."""
    processors, blocks = 2 * MULTIPROCESSORS, batch * heads * -(-queries // 64)
    if blocks >= 0.8 * processors:
        return 1
    columns = -(-keys // (256 if width <= 64 else 128 if width <= 128 else 64))
    allowed = [
        splits
        for splits in range(1, min(128, processors, columns) + 1)
        if splits == 1 or -(-columns // splits) != -(-columns // (splits - 1))
    ]
    busy = [blocks * splits / processors / math.ceil(blocks * splits / processors) for splits in allowed]
    return next(splits for splits, share in zip(allowed, busy, strict=True) if share >= 0.85 * max(busy))


def _forward_2(query: Tensor, key: Tensor, dropout: float, window: Any, batch: int) -> tuple[Tensor, ...]:
    """Mirror mha_fwd [B, S, N, D], or mha_varlen_fwd [T, N, D] of `batch` sequences: output, log-sum-exp, state."""
    varlen, width = query.dim() == 3, query.shape[-1]
    queries, heads, kv_heads, keys = query.shape[-3], query.shape[-2], key.shape[-2], key.shape[-3]
    grouped = not varlen and queries == 1 and heads > kv_heads and window == (ALL, ALL) and not dropout
    times = heads // kv_heads
    if grouped:
        query, queries, heads = query.reshape(batch, kv_heads, times, width).transpose(1, 2), times, kv_heads
    out = torch.empty_like(query)
    shape = (heads, query.shape[0]) if varlen else (batch, heads, queries)
    softmax_lse = torch.empty(shape, dtype=torch.float32, device=query.device)
    accumulated = []
    if not dropout and not varlen:
        splits = _splits(batch, heads, queries, keys, width)
        if splits > 1:
            padded = _rounded(width, 32 if width <= 128 else 64)
            parts = [(splits, *shape), (splits, *shape, padded)]
            accumulated = [torch.empty(each, dtype=torch.float32, device=query.device) for each in parts]
    rng_state = torch.empty(2, dtype=torch.int64, device=query.device)
    while accumulated:
        accumulated.pop()  # C++ locals die in reverse order
    if grouped:
        out = out.transpose(1, 2).reshape(batch, 1, kv_heads * queries, width)
        softmax_lse = softmax_lse.reshape(batch, kv_heads * queries, 1)
    return out, softmax_lse, rng_state


def _backward_2(dout: Tensor, key: Tensor, grads: tuple[Tensor, Tensor], batch: int) -> Tensor:
    """Mirror mha_bwd or mha_varlen_bwd: what is made beside the gradients, of which softmax_d is returned."""
    varlen, (heads, width) = dout.dim() == 3, dout.shape[-2:]
    rows = (dout.shape[0] + ROWS * batch,) if varlen else (batch, _rounded(dout.shape[1], ROWS))
    numbers: Any = {"dtype": torch.float32, "device": dout.device}
    softmax_d = torch.empty((heads, *rows) if varlen else (batch, heads, rows[-1]), **numbers)
    dq_accum = torch.empty((*rows, heads, _rounded(width, 32 if width <= 128 else 64)), **numbers)
    if key.shape[-2] != heads:
        shape = (*key.shape[:-2], heads, width)
        dk_expanded = torch.empty(shape, dtype=key.dtype, device=key.device)
        dv_expanded = torch.empty(shape, dtype=key.dtype, device=key.device)
        for grad, expanded in zip(grads, (dk_expanded, dv_expanded), strict=True):
            torch.sum(expanded.view(*key.shape[:-1], heads // key.shape[-2], width), -2, out=grad)
        del grad, expanded
        del dv_expanded, dk_expanded
    del dq_accum
    return softmax_d


class FlashAttention2(torch.autograd.Function):  # type: ignore[misc]
    """FlashAttnFunc and FlashAttnVarlenFunc."""

    @staticmethod
    def forward(ctx, q, k, v, cu_seqlens, max_seqlen, dropout_p, window, is_grad_enabled):  # type: ignore[no-untyped-def]
        """Allocate the result and what is saved, after copies of heads that are no multiple of 8 wide."""
        is_grad = is_grad_enabled and any(x.requires_grad for x in [q, k, v])
        head_size_og = q.size(-1)
        if missing := -head_size_og % 8:
            q = F.pad(q, [0, missing])
            k = F.pad(k, [0, missing])
            v = F.pad(v, [0, missing])
        batch = q.size(0) if cu_seqlens is None else cu_seqlens[0].numel() - 1
        out_padded, softmax_lse, rng_state = _forward_2(q, k, dropout_p, window, batch)
        if is_grad:
            lengths = () if cu_seqlens is None else cu_seqlens
            ctx.save_for_backward(q, k, v, out_padded, softmax_lse, *lengths, rng_state)
            ctx.max_seqlen, ctx.batch = max_seqlen, batch
        return out_padded[..., :head_size_og]

    @staticmethod
    def backward(ctx, dout):  # type: ignore[no-untyped-def]
        """Allocate gradients, and beside them what the kernel adds up in."""
        q, k, v, *others = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        head_size_og = dout.size(-1)
        dout_padded = dout
        if missing := -head_size_og % 8:
            dout_padded = F.pad(dout, [0, missing])
        _backward_2(dout_padded, k, (dk, dv), ctx.batch)
        del q, k, v
        others.reverse()  # they are locals of a frame, which die in order; a list dies back to front
        dq = dq[..., : dout.shape[-1]]
        dk = dk[..., : dout.shape[-1]]
        dv = dv[..., : dout.shape[-1]]
        return dq, dk, dv, None, None, None, None, None


def _kinds(causal: bool, window: Any, queries: int, keys: int) -> tuple[bool, bool]:
    """Return is_causal and is_local as set_params_fprop has them: a window goes before the triangle."""
    left, right = window
    left = ALL if left >= keys - 1 else left
    right = 0 if causal else ALL if right >= queries - 1 else right
    is_causal = left < 0 and right == 0
    return is_causal, (left >= 0 or right >= 0) and not is_causal


def _forward_3(query: Tensor, causal: bool, local: bool, batch: int) -> tuple[Tensor, Tensor]:
    """Mirror mha_fwd of compute capability 9.0, keys not split: output and log-sum-exp."""
    varlen = query.dim() == 3
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    shape = (query.shape[1], query.shape[0]) if varlen else (batch, query.shape[2], query.shape[1])
    softmax_lse = torch.empty(shape, dtype=torch.float32, device=query.device)
    if varlen or causal or local:
        vectors = 2 * varlen + (not local) + (causal or local)
        semaphore = torch.empty(1 + vectors * _rounded(batch, GROUP), dtype=torch.int32, device=query.device)
        del semaphore
    return out, softmax_lse


def _tiles(width: int, causal: bool, local: bool, *, softcap: bool) -> tuple[int, int, int]:
    """Return to what heads, queries and keys are rounded up in backward, of compute capability 9.0."""
    padded = next(each for each in (64, 96, 128, 192, 256) if width <= each)
    rows = {64: 96 if causal and softcap else 128, 128: 64 if causal or local or softcap else 80}.get(padded, 64)
    return padded, rows, {192: 96, 256: 80}.get(padded, 128)


def _backward_3(query: Tensor, key: Tensor, batch: int, longest: int, tiles: tuple[int, int, int]) -> Tensor:
    """Mirror mha_bwd, and the caller's frame that holds all but the semaphore to its end."""
    varlen, heads, kv_heads, (width, rows, columns) = query.dim() == 3, query.shape[-2], key.shape[-2], tiles
    numbers: Any = {"dtype": torch.float32, "device": query.device}
    if varlen:
        queries, keys = (_rounded(x.shape[0] + batch * tile, tile) for x, tile in ((query, rows), (key, columns)))
        first: tuple[int, ...] = ()
    else:
        queries, keys = (_rounded(x.shape[1], tile) for x, tile in ((query, rows), (key, columns)))
        first = (batch,)
    softmax_d = torch.empty((*first, heads, queries), **numbers)
    rest = [torch.empty((*first, heads, queries), **numbers), torch.empty((*first, heads, queries * width), **numbers)]
    if kv_heads != heads:
        rest += [torch.zeros((*first, kv_heads, keys * width), **numbers) for _ in range(2)]
    dq_semaphore = torch.empty((-(-longest // rows), batch, heads), dtype=torch.int32, device=query.device)
    del dq_semaphore
    return softmax_d


class FlashAttention3(torch.autograd.Function):  # type: ignore[misc]
    """FlashAttnFunc and FlashAttnVarlenFunc of hopper/."""

    @staticmethod
    def forward(ctx, q, k, v, cu_seqlens, max_seqlen, causal, window, softcap):  # type: ignore[no-untyped-def]
        """Allocate the result and what is saved."""
        batch = q.size(0) if cu_seqlens is None else cu_seqlens[0].numel() - 1
        longest = q.size(1) if cu_seqlens is None else int(max_seqlen)
        ctx.kinds = _kinds(causal, window, longest, k.size(1) if cu_seqlens is None else longest)
        is_causal, is_local = ctx.kinds
        out, softmax_lse = _forward_3(q, is_causal, is_local, batch)
        lengths = () if cu_seqlens is None else cu_seqlens
        ctx.save_for_backward(q, k, v, out, softmax_lse, *lengths)
        ctx.max_seqlen, ctx.batch, ctx.longest, ctx.softcap = max_seqlen, batch, longest, softcap
        return out

    @staticmethod
    def backward(ctx, dout):  # type: ignore[no-untyped-def]
        """Allocate gradients, and beside them what the kernel adds up in."""
        q, k, v, *others = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        width = q.shape[-1]
        _backward_3(q, k, ctx.batch, ctx.longest, _tiles(width, *ctx.kinds, softcap=ctx.softcap))
        del q, k, v
        others.reverse()  # they are locals of a frame, which die in order; a list dies back to front
        dq = dq[..., :width]
        dk = dk[..., :width]
        dv = dv[..., :width]
        return dq, dk, dv, None, None, None, None, None


class FlashAttentionWithSinks(FlashAttention3):
    """FlashAttnFunc and FlashAttnVarlenFunc of vLLM's flash-attn 3, which return the log-sum-exp too."""

    @staticmethod
    def forward(ctx, q, k, v, cu_seqlens, max_seqlen, causal, window, s_aux):  # type: ignore[no-untyped-def]
        """Allocate the result and what is saved."""
        batch = q.size(0) if cu_seqlens is None else cu_seqlens[0].numel() - 1
        longest = q.size(1) if cu_seqlens is None else int(max_seqlen)
        ctx.kinds = _kinds(causal, window, longest, k.size(1) if cu_seqlens is None else longest)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        shape = (batch, q.shape[2], q.shape[1]) if cu_seqlens is None else (q.shape[1], q.shape[0])
        softmax_lse = torch.empty(shape, dtype=torch.float32, device=q.device)
        if cu_seqlens is not None or any(ctx.kinds):
            semaphore = torch.empty(1 if cu_seqlens is None else 1 + batch, dtype=torch.int32, device=q.device)
            del semaphore
        ctx.save_for_backward(q, k, v, out, softmax_lse, *(() if cu_seqlens is None else cu_seqlens))
        ctx.max_seqlen, ctx.batch, ctx.longest, ctx.softcap = max_seqlen, batch, longest, False
        return out, softmax_lse

    @staticmethod
    def backward(ctx, dout, *others):  # type: ignore[no-untyped-def]
        """Allocate gradients, of sinks none."""
        return FlashAttention3.backward(ctx, dout)  # type: ignore[no-untyped-call]


def flash_attn_func_2(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: Any = (ALL, ALL), softcap: float = 0.0, deterministic: bool = False,
) -> Any:  # fmt: skip
    """flash_attn.flash_attn_func."""
    return FlashAttention2.apply(q, k, v, None, None, dropout_p, window_size, torch.is_grad_enabled())


def flash_attn_varlen_func_2(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: Any, max_seqlen_k: Any,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False, window_size: Any = (ALL, ALL),
    softcap: float = 0.0, deterministic: bool = False, block_table: Tensor | None = None,
) -> Any:  # fmt: skip
    """flash_attn.flash_attn_varlen_func."""
    grad = torch.is_grad_enabled()
    return FlashAttention2.apply(q, k, v, (cu_seqlens_q, cu_seqlens_k), max_seqlen_q, dropout_p, window_size, grad)


def flash_attn_func_3(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False,
    window_size: Any = (ALL, ALL), softcap: float = 0.0, deterministic: bool = False,
) -> Any:  # fmt: skip
    """flash_attn_interface.flash_attn_func."""
    return FlashAttention3.apply(q, k, v, None, None, causal, window_size, softcap > 0)


def flash_attn_varlen_func_3(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: Any, max_seqlen_k: Any,
    softmax_scale: float | None = None, causal: bool = False, window_size: Any = (ALL, ALL), softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:  # fmt: skip
    """flash_attn_interface.flash_attn_varlen_func."""
    return FlashAttention3.apply(q, k, v, (cu_seqlens_q, cu_seqlens_k), max_seqlen_q, causal, window_size, softcap > 0)


def flash_attn_func_of_vllm(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False,
    window_size: Any = (ALL, ALL), softcap: float = 0.0, deterministic: bool = False, s_aux: Tensor | None = None,
) -> Any:  # fmt: skip
    """vllm_flash_attn3.flash_attn_func."""
    return FlashAttentionWithSinks.apply(q, k, v, None, None, causal, window_size, s_aux)


def flash_attn_varlen_func_of_vllm(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: Any, max_seqlen_k: Any,
    softmax_scale: float | None = None, causal: bool = False, window_size: Any = (ALL, ALL), softcap: float = 0.0,
    deterministic: bool = False, s_aux: Tensor | None = None,
) -> Any:  # fmt: skip
    """vllm_flash_attn3.flash_attn_varlen_func."""
    cu_seqlens = (cu_seqlens_q, cu_seqlens_k)
    return FlashAttentionWithSinks.apply(q, k, v, cu_seqlens, max_seqlen_q, causal, window_size, s_aux)


class IndexPutFirstAxis(torch.autograd.Function):  # type: ignore[misc]
    """flash_attn.bert_padding.index_put_first_axis."""

    @staticmethod
    def forward(ctx, values, indices, first_axis_dim):  # type: ignore[no-untyped-def]
        """Lay values out over zeros."""
        ctx.save_for_backward(indices)
        output = torch.zeros(first_axis_dim, *values.shape[1:], device=values.device, dtype=values.dtype)
        output[indices] = values
        return output

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        """Pick the gradient up again."""
        (indices,) = ctx.saved_tensors
        grad_values = grad_output[indices]
        return grad_values, None, None


def pad_input_2(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Any:
    """flash_attn.bert_padding.pad_input."""
    output: Tensor = IndexPutFirstAxis.apply(hidden_states, indices, batch * seqlen)
    return output.reshape(batch, seqlen, *output.shape[1:])


@contextmanager
def installed(job: TrainJob | InferJob, mode: Any, taken: Callable[[str], None]) -> Iterator[None]:
    """Let transformers find the package that a job's attention kernel is named after; `mode` are the fake tensors that
    answer it, None where tensors are real, `taken` hears of each call.
    """
    if job.attention not in FLASH_ATTN:
        yield
        return
    from transformers import PreTrainedModel

    utils = import_module("transformers.modeling_flash_attention_utils")
    masking = import_module("transformers.masking_utils")
    functions: tuple[Any, ...]
    unpad_input = utils._unpad_input if mode is None else _told_of_queries(utils._unpad_input, mode)
    if job.attention == "flash_attention_2":
        functions = flash_attn_func_2, flash_attn_varlen_func_2, None, pad_input_2, unpad_input
    else:
        functions = flash_attn_func_3, flash_attn_varlen_func_3, None, utils._pad_input, unpad_input
    of_vllm = flash_attn_func_of_vllm, flash_attn_varlen_func_of_vllm, None, utils._pad_input, unpad_input
    heard = _heard(utils.lazy_import_flash_attention, job.attention, taken)
    attends = import_module("transformers.modeling_utils").ALL_ATTENTION_FUNCTIONS._global_mapping
    mapping = masking.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    with ExitStack() as stack:

        def imported(implementation: str, *args: Any, **kwargs: Any) -> Any:
            return of_vllm if implementation == OF_VLLM else functions

        stack.enter_context(patch.object(utils, "_lazy_imports", imported))
        stack.enter_context(patch.dict(attends, {OF_VLLM: attends[job.attention]}))
        stack.enter_context(patch.object(utils, "_loaded_implementation", None))
        stack.enter_context(patch.object(utils, "lazy_import_flash_attention", heard))
        stack.enter_context(patch.object(PreTrainedModel, "_flash_attn_can_dispatch", _can_dispatch))
        if mode is not None:
            mask = _told_of_holes(mapping[job.attention], job, mode)
            stack.enter_context(patch.dict(mapping, {job.attention: mask, OF_VLLM: mask}))
            # Fake tensors would be taken for a sign of compilation.
            stack.enter_context(patch.object(utils, "is_tracing", lambda tensor=None: False))
            for name, told in (
                ("_get_unpad_data", _told_of_length),
                ("_is_packed_sequence", _told_of_packing),
                ("_prepare_from_posids", _told_of_sequences),
            ):
                stack.enter_context(patch.object(utils, name, told(getattr(utils, name), job, mode)))
        yield


def _can_dispatch(self: Any, flash_attn_version: int, is_init_check: bool = False) -> bool:
    """Mirror the check whether a class supports flash attention; that the package is there goes without saying."""
    if not self._supports_flash_attn:
        raise UnsupportedError(f"{type(self).__name__} knows no flash-attn.", "Take another --attention.")
    module = sys.modules[type(self).__module__]
    if hasattr(module, "flash_attn_supports_top_left_mask"):  # classes of their own import it where a package is
        vars(module)["_flash_attention_forward"] = _of_transformers
    return True


def _of_transformers(*args: Any, **kwargs: Any) -> Any:
    return import_module("transformers.modeling_flash_attention_utils")._flash_attention_forward(*args, **kwargs)


def _heard(real: Any, name: str, taken: Callable[[str], None]) -> Any:
    def heard(*args: Any, **kwargs: Any) -> Any:
        taken(name)
        return real(*args, **kwargs)

    return heard


# What code asks of the values of tensors, answered as a job's batch would.
def _told_of_holes(real: Any, job: TrainJob | InferJob, mode: Any) -> Any:
    def mask(*args: Any, **kwargs: Any) -> Any:
        made = getattr(kwargs.get("attention_mask"), "oomph_full", False)  # by a class itself, without holes
        with patch.object(mode, "plain", mode.plain and (made or not job.padding)):
            return real(*args, **kwargs)

    return mask


def _told_of_length(real: Any, job: TrainJob | InferJob, mode: Any) -> Any:
    def get_unpad_data(attention_mask: Tensor) -> Any:
        with patch.object(mode, "number", attention_mask.shape[1]):
            return real(attention_mask)

    return get_unpad_data


def _told_of_queries(real: Any, mode: Any) -> Any:
    def unpad_input(hidden_states: Tensor, attention_mask: Tensor) -> Any:
        with patch.object(mode, "number", attention_mask.shape[1]):
            return real(hidden_states, attention_mask)

    return unpad_input


def _told_of_packing(real: Any, job: TrainJob | InferJob, mode: Any) -> Any:
    def is_packed_sequence(position_ids: Any, batch_size: int) -> Any:
        return real(position_ids, batch_size) is not False and isinstance(job, TrainJob) and job.sequences_in_row > 1

    return is_packed_sequence


def _told_of_sequences(real: Any, job: TrainJob | InferJob, mode: Any) -> Any:
    def prepare_from_posids(query: Tensor, key: Tensor, value: Tensor, position_ids: Tensor) -> Any:
        sequences = min(job.sequences_in_row, query.shape[1]) if isinstance(job, TrainJob) else 1
        with patch.object(mode, "found", sequences):
            found = real(query, key, value, position_ids)
        found[-1][0].oomph_number = -(-query.shape[1] // sequences)
        return found

    return prepare_from_posids
