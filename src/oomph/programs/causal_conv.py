"""The depthwise convolution over time of hybrid models, as transformers runs it without the package causal-conv1d, or
with it.

Shape letters: B batch, C channels, S sequence, K kernel. Source: transformers 5.23, models/lfm2/modeling_lfm2.py and
models/qwen3_next/modeling_qwen3_next.py, the functions named.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.cache import Cache
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

WIDEST = 4  # kernel of the package causal-conv1d


def masked(hidden_states: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror apply_mask_to_padding_states: hidden_states [B, S, H] times a mask [B, S] int64."""
    if attention_mask is not None:
        dtype = hidden_states.dtype
        hidden_states = ops.cast(hidden_states * ops.unsqueeze(attention_mask, 2), dtype)
    return hidden_states


def squeezed(conv: Bound) -> Sym:
    """Return conv.weight.squeeze(1): [C, K]."""
    weight = conv.value("weight")
    return ops.view(weight, (weight.shape[0], weight.shape[2]))


def _has_package(weight: Sym, activation: str) -> bool:
    """Tell whether the package causal-conv1d is played; raises UnsupportedError for what it refuses."""
    if "causal-conv1d" not in weight.tape.mixers:
        return False
    if activation not in ("", "silu", "swish") or not yes(weight.shape[1] <= WIDEST):
        raise UnsupportedError(
            f"causal-conv1d computes kernels of 2 to {WIDEST} places, with SiLU or nothing behind them.",
            "Leave it out of --mixers.",
        )
    return True


def causal_conv1d_fn(hidden_states: Sym, weight: Sym, bias: Sym | None, activation: str = "") -> Sym:
    """Mirror the function of this name: hidden_states [B, C, S] in and out, weight [C, K], bias [C]."""
    if _has_package(weight, activation):
        return ops.causal_conv1d(hidden_states, weight, bias, hidden_states.tape.seq_idx)
    out = ops.conv1d(
        ops.cast(hidden_states, weight.dtype), ops.unsqueeze(weight, 1), bias, padding=weight.shape[1] - 1
    )  # fmt: skip
    out = ops.part(out, 0, hidden_states.shape[2])
    if activation:
        out = ops.activate(activation, out)
    return ops.cast(out, hidden_states.dtype)


def causal_conv1d_update(
    hidden_states: Sym, conv_state: Sym, weight: Sym, bias: Sym | None, activation: str = ""
) -> Sym:  # fmt: skip
    """Mirror the function of this name: a token behind those of conv_state [B, C, K], which is written in place."""
    if _has_package(weight, activation):
        return ops.causal_conv1d_update(hidden_states, conv_state, weight, bias)
    hidden_states_new = ops.cast(ops.cat([conv_state, hidden_states], 2), weight.dtype)
    out = ops.conv1d(hidden_states_new, ops.unsqueeze(weight, 1), bias)
    out = last_tokens(out, hidden_states.shape[2])
    if activation:
        out = ops.activate(activation, out)
    return ops.cast(out, hidden_states.dtype)


def last_tokens(x: Sym, count: Size) -> Sym:
    """Return x[:, :, -count:], which is a slice also where it is all of x."""
    return ops.slice_axis(x, 2, x.shape[2] - count, x.shape[2])


def convolved(conv: Bound, hidden_states: Sym, cache: Cache | None, index: int, activation: str) -> Sym:
    """Mirror what Mamba's mixers do around their convolution: hidden_states [B, C, S] in and out.

    With a cache a single token joins the last ones in the layer's state; more are put there and convolved as always.
    """
    seq_len = hidden_states.shape[2]
    conv_state = None if cache is None else cache.conv_state(index)
    if conv_state is not None and yes(seq_len == 1):
        return causal_conv1d_update(hidden_states, conv_state, squeezed(conv), conv.parts["bias"], activation)
    if cache is not None:
        hidden_states = cache.update_conv_state(hidden_states, index, conv.size[0])
    hidden_states = causal_conv1d_fn(hidden_states, squeezed(conv), conv.parts["bias"], activation)
    return hidden_states if cache is None else last_tokens(hidden_states, seq_len)
