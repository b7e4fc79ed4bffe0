"""The experts of a layer in the three forms that transformers has for them, with their local variables.

Shape letters: T tokens, H hidden, F expert ffn, E experts, k experts of a token, M = T·k pairs of token and expert.
Source: transformers 5.23, integrations/moe.py; eager: MixtralExperts.forward, the same in all classes.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym


def experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror use_experts_implementation: hidden_states [T, H] through k experts each, index and weights [T, k]."""
    form = m.tape.experts
    if form not in FORMS:
        raise UnsupportedError(f"oomph cannot play experts={form} yet.", "Trace the real code instead: oomph trace.")
    return FORMS[form](m, hidden_states, top_k_index, top_k_weights)


def grouped_mm_experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror grouped_mm_experts_forward: rows sorted by expert, one product for all experts."""
    num_tokens, num_top_k = top_k_index.shape
    tape, pairs = hidden_states.tape, (num_tokens * num_top_k,)
    sample_weights = ops.view(top_k_weights, pairs)
    expert_ids = ops.view(top_k_index, pairs)
    expert_ids_g, perm = ops.sort(expert_ids)
    selected_hidden_states_g = ops.take(hidden_states, ops.unary(perm, "floor_divide"))
    sample_weights_g = ops.take(sample_weights, perm)
    histc_input = ops.cast(expert_ids_g, "int32")
    tokens_per_expert = ops.histogram(histc_input, m.num_experts)
    offsets = ops.unary(tokens_per_expert, "cumsum")
    into, out = m.names
    selected_biases = _biases(m, into, expert_ids_g)
    proj_out = _grouped_linear(m, into, selected_hidden_states_g, offsets, selected_biases)
    proj_out = gated(m, proj_out)
    selected_biases = _biases(m, out, expert_ids_g)
    proj_out = _grouped_linear(m, out, proj_out, offsets, selected_biases)
    weighted_out = proj_out * ops.unsqueeze(sample_weights_g, 1)
    inv_perm = tape.empty(perm.shape, "int64", op="empty_like")
    tape.empty(perm.shape, "int64", op="arange")
    weighted_out = ops.take(weighted_out, inv_perm)
    hidden = hidden_states.shape[-1]
    final_hidden_states = ops.sum_over(ops.view(weighted_out, (num_tokens, num_top_k, hidden)), 1)
    return ops.cast(final_hidden_states, hidden_states.dtype)


def _biases(m: Bound, name: str, expert_ids: Sym) -> Sym | None:
    """Return the bias of every row's expert, if there are any."""
    return ops.take(m[f"{name}_bias"], expert_ids) if m.bias else None


def _grouped_linear(m: Bound, name: str, x: Sym, offsets: Sym, selected_biases: Sym | None) -> Sym:
    """Mirror _grouped_linear: with a bias, added in place."""
    weight: Sym = m[name]
    out = ops.grouped_mm(x, weight if m.transposed else ops.transpose(weight, -2, -1), offsets)
    return out if selected_biases is None else ops.add_in_place(out, selected_biases)


def gated(m: Bound, gate_up: Sym) -> Sym:
    """Mirror _default_apply_gate: act(gate) · up of [M, 2F]; or gpt-oss' own, whose two are interleaved."""
    if m.activation == "gpt_oss":
        gate, up = ops.every_other(gate_up, 0), ops.every_other(gate_up, 1)
        gate = ops.clamp(gate)
        up = ops.clamp_both(up)
        glu = gate * ops.sigmoid(gate * 1.702)
        return (up + 1.0) * glu
    gate, up = ops.split(gate_up, m.ffn_size, 2)
    return ops.activate(m.activation, gate) * up


FORMS = {"grouped_mm": grouped_mm_experts}
