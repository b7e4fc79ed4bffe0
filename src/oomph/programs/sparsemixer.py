"""Phi-MoE's sparse block and its router with their local variables: two experts drawn one after the other.

Source: transformers 5.23, models/phimoe/modeling_phimoe.py.
"""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym


def phimoe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror PhimoeSparseMoeBlock.forward, which shakes its input where the config says so."""
    shape = hidden_states.shape
    if m.tape.training and m.shaken:
        hidden_states = ops.shake(hidden_states)
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), shape[-1]))
    _, routing_weights, selected_experts = m[m.router_name](hidden_states, partial(router, m))
    final_hidden_states = m[m.experts_name](hidden_states, selected_experts, routing_weights)
    return ops.view(final_hidden_states, shape)


def router(m: Bound, linear: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror PhimoeTopKRouter.forward, which shakes it once more."""
    if m.tape.training and m.shaken:
        hidden_states = ops.shake_view(hidden_states)
    router_logits = ops.linear(hidden_states, linear.value("weight"))
    routing_weights, selected_experts = sparsemixer(router_logits)
    return router_logits, routing_weights, selected_experts


def sparsemixer(scores: Sym) -> tuple[Sym, Sym]:
    """Mirror sparsemixer: of logits [T, E] the weights and int64 indices of two experts, [T, 2] each."""
    with scores.tape.no_grad():
        mask_logits_threshold, max_ind = ops.max_with_index(scores)
        factor = scale(scores)
        mask_logits_threshold = excluded(scores)
    masked_gates = ops.masked_fill(scores, mask_logits_threshold)
    selected_experts = drawn(masked_gates) if scores.tape.training else max_ind
    masked_gates = ops.softmax(masked_gates)
    multiplier_o = ops.gather(masked_gates, selected_experts)
    if scores.tape.training:
        max_scores, max_ind = ops.max_with_index(masked_gates)
        mask_for_one = heun(max_scores)
        mask_for_one = blended(mask_for_one, masked_gates)
        multiplier = ops.multiplier(scores, multiplier_o, selected_experts, masked_gates, mask_for_one)
    else:
        multiplier = multiplier_o
    masked_scores = ops.scatter_number(scores, selected_experts)
    with scores.tape.no_grad():
        mask_logits_threshold, max_ind = ops.max_with_index(masked_scores)
        factor = scale(scores)  # noqa: F841  lives to the end
        mask_logits_threshold = excluded(scores)
    masked_gates_top2 = ops.masked_fill(masked_scores, mask_logits_threshold)
    selected_experts_top2 = drawn(masked_gates_top2) if scores.tape.training else max_ind
    masked_gates_top2 = ops.softmax(masked_gates_top2)
    multiplier_top2_o = ops.gather(masked_gates_top2, selected_experts_top2)
    if scores.tape.training:
        max_scores, max_ind = ops.max_with_index(masked_gates_top2)
        mask_for_one_top2 = heun(max_scores)
        mask_for_one_top2 = blended(mask_for_one_top2, masked_gates_top2)
        multiplier_top2 = ops.multiplier(
            scores, multiplier_top2_o, selected_experts_top2, masked_gates_top2, mask_for_one_top2
        )
    else:
        multiplier_top2 = multiplier_top2_o
    multiplier = ops.cat((multiplier, multiplier_top2), -1)
    selected_experts = ops.cat((selected_experts, selected_experts_top2), -1)
    return multiplier, selected_experts


def scale(scores: Sym) -> Sym:
    """Mirror scores.abs().clamp(min=mask_logits_threshold)."""
    sizes = ops.unary(scores, "abs")
    return ops.unary(sizes, "clamp")


def excluded(scores: Sym) -> Sym:
    """Mirror ((mask_logits_threshold - scores) / factor) > (2 * jitter_eps): booleans [T, E]."""
    below = ops.unary(scores, "sub")
    share = ops.unary(below, "div")
    del below
    found = share.tape.empty(scores.shape, "bool", op="gt")
    return found


def drawn(masked_gates: Sym) -> Sym:
    """Mirror a draw by the Gumbel trick: int64 [T, 1]."""
    noise = ops.unary(masked_gates, "empty_like")
    logarithm = ops.log(noise)
    del noise
    shifted = masked_gates - logarithm
    del logarithm
    _, index = ops.max_with_index(shifted)
    return index


def heun(max_scores: Sym) -> Sym:
    """Mirror the choice of Heun's third-order method: booleans [T, 1]."""
    tape, shape = max_scores.tape, max_scores.shape
    alike = tape.empty(shape, "bool", op="eq")
    random = tape.empty(shape, max_scores.dtype, op="rand_like")
    above = tape.empty(shape, "bool", op="gt")
    del random
    either = tape.empty(shape, "bool", op="logical_or")
    del alike, above
    return either


def blended(mask_for_one: Sym, masked_gates: Sym) -> Sym:
    """Mirror torch.add(0.3333, mask_for_one, alpha=0.6667).type_as(masked_gates): [T, 1]."""
    number = mask_for_one.tape.empty(mask_for_one.shape, "fp32", op="add")
    return ops.cast(number, masked_gates.dtype)
