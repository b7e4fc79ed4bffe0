"""Sparse blocks of transformers 4, whose experts are modules: a loop over those that were hit, with its locals.

Shape letters as in mixtures.py. Source: transformers 4.57, models/mixtral/modeling_mixtral.py and those of Qwen2-MoE,
Qwen3-MoE and OLMoE; before 4.54 the loop went over all experts, which tells where one gets no token.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.experts import assumed_loads, check_mixture, column, hit
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

SHARED = ("shared_expert", "shared_expert_gate")


def mixture(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror MixtralSparseMoeBlock.forward, and Qwen2MoeSparseMoeBlock's with its shared expert: also the logits."""
    check_mixture(m.tape)
    batch_size, sequence_length, hidden_dim = hidden_states.shape
    hidden_states = ops.view(hidden_states, (batch_size * sequence_length, hidden_dim))
    router_logits = m[m.router_name](hidden_states)
    routing_weights = ops.softmax_in_fp32(router_logits)
    routing_weights, selected_experts = ops.topk(routing_weights, m.top_k)
    if m.normalised:
        routing_weights = ops.divide_in_place(routing_weights, ops.sum_over(routing_weights, -1, keepdim=True))
    routing_weights = ops.cast(routing_weights, hidden_states.dtype)
    final_hidden_states = m.tape.empty(hidden_states.shape, hidden_states.dtype, op="zeros")
    expert_mask = ops.one_hot(selected_experts, m.num_experts)
    loads = assumed_loads(m, *selected_experts.shape)
    expert_hit = hit(m.tape, m.num_experts, len(loads))  # noqa: F841  held to the end
    for expert_layer, load in zip(m[m.experts_name], loads, strict=False):
        idx, top_x = _where(expert_mask, load)
        current_state = ops.take(hidden_states, top_x)
        current_hidden_states = expert_layer(current_state) * ops.take_pairs(routing_weights, top_x, idx)
        final_hidden_states = ops.index_add_in_place(
            final_hidden_states, top_x, ops.cast(current_hidden_states, hidden_states.dtype)
        )
    if SHARED[0] in m.parts:
        shared_expert_output = m.shared_expert(hidden_states)
        shared_expert_output = ops.sigmoid(m.shared_expert_gate(hidden_states)) * shared_expert_output
        final_hidden_states = final_hidden_states + shared_expert_output
    final_hidden_states = ops.view(final_hidden_states, (batch_size, sequence_length, hidden_dim))
    return final_hidden_states, router_logits


def _where(expert_mask: Sym, load: Size) -> tuple[Sym, Sym]:
    """Mirror torch.where(expert_mask[expert_idx].squeeze(0)): a mask int64 [1, k, T] is picked, then `load` places."""
    tokens, top_k = expert_mask.shape[:2]
    picked = expert_mask.tape.empty((top_k, tokens), "int64", op="index")
    found = ops.nonzero(picked, load)
    return column(found, 0), column(found, 1)
