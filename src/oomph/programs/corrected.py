"""Sparse blocks whose experts are chosen by corrected scores or by groups of experts: DeepSeek's and those like it.

Shape letters: T tokens, H hidden, E experts, k experts of a token. Source: transformers 5.23, the classes named.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.routed import SCALE, flat, routed
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym


def minimax_m2(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MiniMaxM2SparseMoeBlock.forward, which is Mixtral's with a router of its own."""
    shape = hidden_states.shape
    hidden_states = flat(hidden_states)
    _, top_k_weights, top_k_index = routed(m, minimax_m2_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states


def minimax_m2_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror MiniMaxM2TopKRouter.forward: fp32 sigmoid scores, chosen with a correction, made to add up to 1. The
    correction lies in the mixture, or in the router (Step-3.7).
    """
    hidden_states = flat(hidden_states)
    weight = router.value("weight")
    router_logits = ops.linear(ops.cast(hidden_states, weight.dtype), weight)
    routing_weights = ops.sigmoid(ops.cast(router_logits, "fp32"))
    correction = router[router.correction] if router.correction else m.e_score_correction_bias
    scores_for_choice = routing_weights + correction
    _, top_k_index = ops.topk(scores_for_choice, m.top_k)
    top_k_weights = ops.gather(routing_weights, top_k_index)
    top_k_weights = ops.divide_in_place(top_k_weights, ops.sum_over(top_k_weights, -1, keepdim=True))
    router_scores = top_k_weights
    return router_logits, router_scores, top_k_index


def deepseek(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror DeepseekV3MoE.forward and DeepSeek-V2's: the shared experts run last, on what came in."""
    residuals = hidden_states
    orig_shape = hidden_states.shape
    routers = {"deepseek_v2": deepseek_v2_router, "mistral4": mistral4_router}
    router = routers.get(m.style, deepseek_v3_router)
    _, topk_weights, topk_indices = routed(m, router, hidden_states)
    hidden_states = flat(hidden_states)
    hidden_states = ops.view(m[m.experts_name](hidden_states, topk_indices, topk_weights), orig_shape)
    hidden_states = hidden_states + m.shared_experts(residuals)
    if "post_mlp_layernorm" in m.parts:  # A.X-K1
        return m.post_mlp_layernorm(hidden_states)  # type: ignore[no-any-return]
    return hidden_states


def deepseek_v3_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV3TopkRouter.forward: in fp32, sigmoid scores, first the best groups, then the best experts."""
    tape = m.tape
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(ops.cast(hidden_states, "fp32"), ops.cast(router.value("weight"), "fp32"))
    scores = ops.sigmoid(router_logits)
    scores_for_choice = scores + router[router.correction]
    group_scores = ops.sum_over(ops.topk(_grouped(m, scores_for_choice), 2)[0], -1)
    group_idx = ops.topk(group_scores, m.groups[1])[1]
    group_mask = tape.empty(group_scores.shape, group_scores.dtype, op="zeros_like")
    score_mask = _spread(m, group_mask)
    scores_for_choice = ops.masked_fill(scores_for_choice, ops.unary(ops.cast(score_mask, "bool"), "bitwise_not"))
    topk_indices = ops.topk(scores_for_choice, m.top_k)[1]
    topk_weights = ops.gather(scores, topk_indices)
    if m.normalised:
        denominator = ops.sum_over(topk_weights, -1, keepdim=True) + 1e-20
        topk_weights = ops.divide_in_place(topk_weights, denominator)
    topk_weights = topk_weights * SCALE
    del hidden_states, scores, scores_for_choice, group_scores, group_idx
    return router_logits, topk_weights, topk_indices


def deepseek_v2_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV2TopkRouter.forward: in fp32, softmax scores; greedy, or first the best groups."""
    tape = m.tape
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(ops.cast(hidden_states, "fp32"), ops.cast(router.value("weight"), "fp32"))
    scores = ops.softmax_in_fp32(router_logits)
    if not m.groups[0]:
        topk_weights, topk_indices = ops.topk(scores, m.top_k)
    else:
        group_scores = ops.largest(_grouped(m, scores))
        group_idx = ops.topk(group_scores, m.groups[1])[1]
        group_mask = tape.empty(group_scores.shape, group_scores.dtype, op="zeros_like")
        score_mask = _spread(m, group_mask)
        scores = ops.masked_fill(scores, ops.unary(ops.cast(score_mask, "bool"), "bitwise_not"))
        topk_weights, topk_indices = ops.topk(scores, m.top_k)
        del hidden_states
    topk_weights = topk_weights * SCALE
    if m.groups[0]:
        del scores, group_scores, group_idx
    return router_logits, topk_weights, topk_indices


def mistral4_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Mistral4TopkRouter.forward: softmax scores in the logits' dtype, first the best groups."""
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(hidden_states, router.value("weight"))
    scores = ops.softmax(router_logits)
    group_scores = ops.sum_over(ops.topk(_grouped(m, scores), 2)[0], -1)
    group_idx = ops.topk(group_scores, m.groups[1])[1]
    group_mask = m.tape.empty(group_scores.shape, group_scores.dtype, op="zeros_like")
    score_mask = _spread(m, group_mask)
    scores_for_choice = ops.masked_fill(scores, ops.unary(ops.cast(score_mask, "bool"), "bitwise_not"))
    topk_indices = ops.topk(scores_for_choice, m.top_k)[1]
    topk_weights = ops.gather(scores, topk_indices)
    if m.normalised:
        denominator = ops.sum_over(topk_weights, -1, keepdim=True) + 1e-20
        topk_weights = ops.divide_in_place(topk_weights, denominator)
    topk_weights = topk_weights * SCALE
    del hidden_states, scores, group_scores, group_idx
    return router_logits, topk_weights, topk_indices


def _grouped(m: Bound, scores: Sym) -> Sym:
    """Return scores [T, E] as [T, groups, E / groups]."""
    groups = m.groups[0]
    return ops.view(scores, (scores.shape[0], groups, m.num_experts // groups))


def _spread(m: Bound, group_mask: Sym) -> Sym:
    """Return a mask of groups [T, G] as one of experts [T, E], in general a copy."""
    tokens, groups = group_mask.shape
    mask = ops.expand(ops.unsqueeze(group_mask, 2), (tokens, groups, m.num_experts // groups))
    return ops.view(mask, (tokens, m.num_experts))


def mimo_v2_flash(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MiMoV2FlashMoE.forward: DeepSeek-V3's without shared experts."""
    orig_shape = hidden_states.shape
    _, topk_weights, topk_indices = routed(m, deepseek_v3_router, hidden_states)
    hidden_states = flat(hidden_states)
    return ops.view(m[m.experts_name](hidden_states, topk_indices, topk_weights), orig_shape)


def nemotron_h(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror NemotronHMoE.forward: DeepSeek-V3's, with experts in a smaller space between two maps, if there is one."""
    residuals = hidden_states
    orig_shape = hidden_states.shape
    _, topk_weights, topk_indices = routed(m, deepseek_v3_router, hidden_states)
    hidden_states = flat(hidden_states)
    if "fc1_latent_proj" in m.parts:
        hidden_states = m.fc1_latent_proj(hidden_states)
    hidden_states = m[m.experts_name](hidden_states, topk_indices, topk_weights)
    if "fc2_latent_proj" in m.parts:
        hidden_states = m.fc2_latent_proj(hidden_states)
    hidden_states = ops.view(hidden_states, orig_shape)
    hidden_states = hidden_states + m.shared_experts(residuals)
    return hidden_states


def afmoe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror AfmoeSparseMoeBlock.forward: the shared experts between the router and the others, added to first."""
    batch_size, seq_len, hidden_dim = hidden_states.shape
    hidden_states_flat = flat(hidden_states)
    _, top_scores, selected_experts = routed(m, afmoe_router, hidden_states)
    shared_output = ops.view(m.shared_experts(hidden_states_flat), (batch_size, seq_len, hidden_dim))
    routed_output = ops.view(
        m[m.experts_name](hidden_states_flat, selected_experts, top_scores), (batch_size, seq_len, hidden_dim)
    )
    return shared_output + routed_output


def afmoe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror AfmoeTokenChoiceRouter.forward: a linear map's logits in fp32, sigmoid scores, chosen with a bias."""
    _, _, hidden_dim = hidden_states.shape  # locals die in the order in which a frame meets their names
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), hidden_dim))
    router_logits = ops.cast(router.gate(hidden_states), "fp32")
    scores = ops.sigmoid(router_logits)
    _, selected_experts = ops.topk(scores + m.expert_bias, m.top_k)
    top_scores = ops.gather(scores, selected_experts)
    denominator = ops.sum_over(top_scores, -1, keepdim=True) + 1e-20
    top_scores = ops.divide(top_scores, denominator)
    top_scores = top_scores * SCALE
    return router_logits, top_scores, selected_experts


def hy_v3(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror HYV3MoE.forward: routed and shared experts added, in fp32 if the config says so."""
    batch_size, seq_len, hidden_dim = hidden_states.shape
    hidden_states = flat(hidden_states)
    _, top_k_weights, top_k_index = routed(m, hy_v3_router, hidden_states)
    routed_output = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    if m.style == "hy_v3 in fp32":
        hidden_states = ops.cast(
            ops.cast(routed_output, "fp32") + ops.cast(m.shared_experts(hidden_states), "fp32"), hidden_states.dtype
        )
    else:
        hidden_states = routed_output + m.shared_experts(hidden_states)
    return ops.view(hidden_states, (batch_size, seq_len, hidden_dim))


def hy_v3_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror HYV3TopKRouter.forward: in fp32, sigmoid scores, chosen with a correction."""
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(ops.cast(hidden_states, "fp32"), ops.cast(router.value("weight"), "fp32"))
    routing_weights = ops.sigmoid(router_logits)
    scores_for_choice = routing_weights + router[router.correction]
    _, top_k_index = ops.topk(scores_for_choice, m.top_k)
    top_k_weights = ops.gather(routing_weights, top_k_index)
    top_k_weights = ops.divide(top_k_weights, ops.sum_over(top_k_weights, -1, keepdim=True) + 1e-20)
    top_k_weights = top_k_weights * SCALE
    return router_logits, top_k_weights, top_k_index


def laguna(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror LagunaSparseMoeBlock.forward and Step3p7SparseMoeBlock's: the shared expert first, added last to experts
    that a number scales.
    """
    batch_size, sequence_length, hidden_dim = hidden_states.shape
    hidden_states = flat(hidden_states)
    shared_output = m.shared_experts(hidden_states)
    router = laguna_router if m.style == "laguna" else minimax_m2_router
    _, routing_weights, selected_experts = routed(m, router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, selected_experts, routing_weights)
    hidden_states = hidden_states * SCALE
    hidden_states = hidden_states + shared_output
    hidden_states = ops.view(hidden_states, (batch_size, sequence_length, hidden_dim))
    return hidden_states


def laguna_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror LagunaTopKRouter.forward: sigmoid scores in fp32, of logits that a tanh may bound, chosen corrected."""
    hidden_states = flat(hidden_states)
    router_logits = ops.cast(ops.linear(hidden_states, router.value("weight")), "fp32")
    if router.capped:
        router_logits = ops.tanh(router_logits / 1.0) * 1.0
    routing_scores = ops.sigmoid(router_logits)
    scores_for_selection = routing_scores + ops.cast(router.value("e_score_correction_bias"), routing_scores.dtype)
    _, selected_experts = ops.topk(scores_for_selection, m.top_k)
    routing_weights = ops.gather(routing_scores, selected_experts)
    routing_weights = ops.divide(routing_weights, ops.sum_over(routing_weights, -1, keepdim=True))
    routing_weights = ops.cast(routing_weights, hidden_states.dtype)
    return router_logits, routing_weights, selected_experts
