"""The experts of a layer in the three forms that transformers has for them, with their local variables.

Shape letters: T tokens, H hidden, F expert ffn, E experts, k experts of a token, M = T·k pairs of token and expert.
Source: transformers 5.23, integrations/moe.py; eager: MixtralExperts.forward, the same in all classes.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.losses import WITHOUT_EXPERTS, check_loss
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, settled, yes
from oomph.tape.sym import Sym, view_of
from oomph.tape.tape import Tape


def experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror use_experts_implementation: hidden_states [T, H] through k experts each, index and weights [T, k]."""
    check_mixture(m.tape)
    if m.loops:
        return bounded_experts(m, hidden_states, top_k_index, top_k_weights)
    form = m.tape.experts
    if form not in FORMS:
        raise UnsupportedError(f"oomph cannot play experts={form} yet.", "Trace the real code instead: oomph trace.")
    return FORMS[form](m, hidden_states, top_k_index, top_k_weights)


def check_mixture(tape: Tape) -> None:
    """Refuse a loss that is not played with experts."""
    if tape.loss in WITHOUT_EXPERTS:
        check_loss(tape.loss, "a mixture, whose router's loss TRL adds,")


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
    selected_weights = m.value(into)
    selected_biases = _biases(m, into, expert_ids_g)
    proj_out = _grouped_linear(m, selected_hidden_states_g, selected_weights, offsets, selected_biases)
    proj_out = gated(m, proj_out)
    selected_weights = m.value(out)
    selected_biases = _biases(m, out, expert_ids_g)
    proj_out = _grouped_linear(m, proj_out, selected_weights, offsets, selected_biases)
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


def _grouped_linear(m: Bound, x: Sym, weight: Sym, offsets: Sym, selected_biases: Sym | None) -> Sym:
    """Mirror _grouped_linear: with a bias, added in place."""
    out = ops.grouped_mm(x, weight if m.transposed else ops.transpose(weight, -2, -1), offsets)
    return out if selected_biases is None else ops.add_(out, selected_biases)


def batched_mm_experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror batched_mm_experts_forward: every pair of token and expert gets its own copy of the expert's weights."""
    if m.bias:
        raise UnsupportedError("oomph cannot play experts=batched_mm with biases yet.", "Say --experts grouped_mm.")
    num_tokens, num_top_k = top_k_index.shape
    selected_hidden_states = ops.repeat_rows(hidden_states, num_top_k)
    sample_weights = ops.view(top_k_weights, (num_tokens * num_top_k,))
    expert_ids = ops.view(top_k_index, (num_tokens * num_top_k,))
    into, out = m.names
    selected_weights = ops.take(m.value(into), expert_ids)
    proj_out = _batched_linear(m, selected_hidden_states, selected_weights)
    proj_out = gated(m, proj_out)
    selected_weights = ops.take(m.value(out), expert_ids)
    proj_out = _batched_linear(m, proj_out, selected_weights)
    weighted_out = proj_out * ops.unsqueeze(sample_weights, 1)
    hidden = hidden_states.shape[-1]
    final_hidden_states = ops.sum_over(ops.view(weighted_out, (num_tokens, num_top_k, hidden)), 1)
    return ops.cast(final_hidden_states, hidden_states.dtype)


def _batched_linear(m: Bound, x: Sym, weight: Sym) -> Sym:
    """Mirror _batched_linear: x [M, K] with weights [M, N, K], or [M, K, N] where they are transposed."""
    if m.transposed:
        return ops.view(ops.bmm(ops.unsqueeze(x, 1), weight), (x.shape[0], weight.shape[2]))
    return ops.view(ops.bmm(weight, ops.unsqueeze(x, 2)), (x.shape[0], weight.shape[1]))


def eager_experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror MixtralExperts.forward: one expert after another, each with the tokens that the job assumes for it.

    The gradient of a stacked weight is made whole for every expert, and added up.
    """
    bounded = m.bounds or m.activation == "swigluoai"
    if m.bias or not m.gated or bounded:
        what = "with biases" if m.bias else "with bounds" if bounded else "without gates"
        raise UnsupportedError(f"oomph cannot play experts=eager {what} yet.", "Say --experts grouped_mm.")
    tape, (into, out) = m.tape, m.names
    final_hidden_states = tape.empty(hidden_states.shape, hidden_states.dtype, op="zeros_like")
    expert_mask = ops.one_hot(top_k_index, m.num_experts + 1)
    loads = assumed_loads(m, *top_k_index.shape)
    expert_hit = hit(tape, m.num_experts + 1, len(loads))
    for load in loads:
        tape.empty((), "bool", op="eq")
        found = ops.nonzero(top_k_index, load)
        top_k_pos, token_idx = column(found, 0), column(found, 1)
        del found
        current_state = ops.take(hidden_states, token_idx)
        gate, up = ops.split(ops.linear(current_state, ops.pick(m.value(into))), m.ffn_size, 2)
        current_hidden_states = ops.activate(m.activation, gate) * up
        current_hidden_states = ops.linear(current_hidden_states, ops.pick(m.value(out)))
        current_hidden_states = current_hidden_states * ops.take_pairs(top_k_weights, token_idx, top_k_pos)
        final_hidden_states = ops.index_add_in_place(
            final_hidden_states, token_idx, ops.cast(current_hidden_states, final_hidden_states.dtype)
        )
    del expert_mask, expert_hit
    return final_hidden_states


def bounded_experts(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
    """Mirror Step3p7Experts.forward: the same loop with bounded gates and other variables."""
    tape, (into, out) = m.tape, m.names
    final = tape.empty(hidden_states.shape, hidden_states.dtype, op="zeros_like")
    mask = ops.one_hot(top_k_index, m.num_experts + 1)
    loads = assumed_loads(m, *top_k_index.shape)
    expert_hit = hit(tape, m.num_experts + 1, len(loads))
    for load in loads:
        tape.empty((), "bool", op="eq")
        found = ops.nonzero(top_k_index, load)
        top_k_pos, token_idx = column(found, 0), column(found, 1)
        del found
        current = gated(m, ops.linear(ops.take(hidden_states, token_idx), ops.pick(m.value(into))))
        current = ops.linear(current, ops.pick(m.value(out))) * ops.take_pairs(top_k_weights, token_idx, top_k_pos)
        final = ops.index_add_in_place(final, token_idx, ops.cast(current, final.dtype))
    del mask, expert_hit
    return final


def hit(tape: Tape, classes: Size, count: int) -> Sym:
    """Mirror torch.greater(expert_mask.sum(dim=(-1, -2)), 0).nonzero()."""
    total = tape.empty((classes,), "int64", op="sum")
    above = tape.empty((classes,), "bool", op="gt")
    del total
    return ops.nonzero(above, count)


def column(found: Sym, at: int) -> Sym:
    """Return one column of places [n, 2] as a view."""
    return view_of(found, found.shape[:1], found.strides[:1])


def sorted_experts(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Llama4TextExperts.forward: [E * T, H] sorted by expert, two products of stacks of matrices."""
    into, out = m.names
    rows, hidden = hidden_states.shape
    hidden_states = ops.view(hidden_states, (m.num_experts, rows // m.num_experts, hidden))
    gate_up = ops.bmm(hidden_states, ops.autocast_argument(m.value(into), cached=True))
    gate, up = ops.split(gate_up, m.ffn_size, 2)
    gated = up * ops.activate(m.activation, gate)
    next_states = ops.bmm(gated, ops.autocast_argument(m.value(out), cached=True))
    del gated
    next_states = ops.view(next_states, (rows, hidden))
    return next_states


def assumed_loads(m: Bound, tokens: Size, top_k: Size) -> list[Size]:
    """Return how many tokens each expert gets that gets any: evenly spread, or at worst all to the same k experts."""
    if m.tape.routing == "worst":
        return [tokens] * settled(top_k)
    pairs = tokens * top_k
    each, more = pairs // m.num_experts, settled(pairs % m.num_experts)
    if yes(each == 0):
        return [1] * more
    return [each + 1] * more + [each] * (settled(m.num_experts) - more)


def gated(m: Bound, gate_up: Sym) -> Sym:
    """Mirror _default_apply_gate: act(gate) · up of [M, 2F]; or gpt-oss' own, whose two are interleaved; or act(up)."""
    if not m.gated:
        return ops.activate(m.activation, gate_up)
    if m.activation == "gpt_oss":
        gate, up = ops.every_other(gate_up, 0), ops.every_other(gate_up, 1)
        gate = ops.clamp(gate)
        up = ops.clamp_both(up)
        glu = gate * ops.sigmoid(gate * 1.702)
        return (up + 1.0) * glu
    gate, up = ops.split(gate_up, m.ffn_size, 2)
    if m.activation == "swigluoai":
        gate = ops.clamp(gate)
        up = ops.clamp_both(up)
        glu = gate * ops.sigmoid(gate * 1.702)
        return (up + 1.0) * glu
    if m.bounds == "first":
        gate = ops.clamp(gate)
        up = ops.clamp_both(up)
    elif m.bounds:
        gate = ops.clamp(ops.activate(m.activation, gate))
        up = ops.clamp_both(up)
        return gate * up
    return ops.activate(m.activation, gate) * up


FORMS = {"grouped_mm": grouped_mm_experts, "eager": eager_experts, "batched_mm": batched_mm_experts}
