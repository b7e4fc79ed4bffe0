"""Sparse blocks: which experts each token goes to, and what is added to theirs. One function per family's form.

Shape letters: T tokens, H hidden, E experts, k experts of a token. Source: transformers 5.23, the classes named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.experts import check_mixture
from oomph.programs.sparsemixer import phimoe
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

Router = Callable[[Bound, Bound, Sym], "tuple[Sym, Sym, Sym]"]  # of a mixture, its router and [T, H]
SCALE = 2.5  # of the weights; its value changes no byte


def mixture(m: Bound, hidden_states: Sym) -> Any:
    """Run the sparse block of a mixture's style on [B, S, H]."""
    if m.style not in STYLES or m.stacked is None:
        raise UnsupportedError("oomph has no program for this mixture of experts yet.", "Trace the model: oomph trace.")
    return STYLES[m.style](m, hidden_states)


def _flat(hidden_states: Sym) -> Sym:
    """Return [B, S, H] as [T, H]."""
    return ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))


def _routed(m: Bound, router: Router, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Call a mixture's router, as whatever module it is: `router` is the forward of its class."""
    made: tuple[Sym, Sym, Sym] = m[m.router_name](hidden_states, partial(router, m))
    return made


def mixtral(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MixtralSparseMoeBlock.forward."""
    shape = hidden_states.shape
    hidden_states = _flat(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, mixtral_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states


def mixtral_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror MixtralTopKRouter.forward: fp32 softmax over all experts, the k largest made to add up to 1.

    Returns logits [T, E], weights and int64 indices [T, k].
    """
    hidden_states = _flat(hidden_states)
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    router_probs = ops.softmax(ops.cast(router_logits, "fp32"))
    router_top_value, router_indices = ops.topk(router_probs, m.top_k)
    router_top_value = ops.divide_in_place(router_top_value, ops.sum_over(router_top_value, -1, keepdim=True))
    router_scores = router_top_value
    return router_logits, router_scores, router_indices


def minimax_m2(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MiniMaxM2SparseMoeBlock.forward, which is Mixtral's with a router of its own."""
    shape = hidden_states.shape
    hidden_states = _flat(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, minimax_m2_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states


def minimax_m2_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror MiniMaxM2TopKRouter.forward: fp32 sigmoid scores, chosen with a correction, made to add up to 1. The
    correction lies in the mixture, or in the router (Step-3.7).
    """
    hidden_states = _flat(hidden_states)
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


def olmoe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror OlmoeSparseMoeBlock.forward."""
    shape = hidden_states.shape
    hidden_states = _flat(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, qwen_router, hidden_states)
    final_hidden_states = ops.view(m[m.experts_name](hidden_states, top_k_index, top_k_weights), shape)
    return final_hidden_states


def qwen3_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Qwen3MoeSparseMoeBlock.forward."""
    hidden_states_reshaped = _flat(hidden_states)
    _, routing_weights, selected_experts = _routed(m, qwen_router, hidden_states_reshaped)
    final_hidden_states = m[m.experts_name](hidden_states_reshaped, selected_experts, routing_weights)
    return ops.view(final_hidden_states, hidden_states.shape)


def qwen2_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Qwen2MoeSparseMoeBlock.forward: a shared expert comes first, behind a sigmoid of its own."""
    shape = hidden_states.shape
    hidden_states_reshaped = _flat(hidden_states)
    shared_expert_output = m.shared_expert(hidden_states_reshaped)
    _, routing_weights, selected_experts = _routed(m, qwen_router, hidden_states_reshaped)
    expert_output = m[m.experts_name](hidden_states_reshaped, selected_experts, routing_weights)
    shared_expert_output = ops.sigmoid(m.shared_expert_gate(hidden_states_reshaped)) * shared_expert_output
    expert_output = expert_output + shared_expert_output
    expert_output = ops.view(expert_output, shape)
    return expert_output


def qwen_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Qwen2MoeTopKRouter.forward, OLMoE's and Qwen3's the same: weights in the logits' dtype."""
    hidden_states = _flat(hidden_states)
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    router_probs = ops.softmax_in_fp32(router_logits)
    router_top_value, router_indices = ops.topk(router_probs, m.top_k)
    if m.normalised:
        router_top_value = ops.divide_in_place(router_top_value, ops.sum_over(router_top_value, -1, keepdim=True))
    router_top_value = ops.cast(router_top_value, router_logits.dtype)
    router_scores = router_top_value
    return router_logits, router_scores, router_indices


def deepseek(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror DeepseekV3MoE.forward and DeepSeek-V2's: the shared experts run last, on what came in."""
    residuals = hidden_states
    orig_shape = hidden_states.shape
    routers = {"deepseek_v2": deepseek_v2_router, "mistral4": mistral4_router}
    router = routers.get(m.style, deepseek_v3_router)
    _, topk_weights, topk_indices = _routed(m, router, hidden_states)
    hidden_states = _flat(hidden_states)
    hidden_states = ops.view(m[m.experts_name](hidden_states, topk_indices, topk_weights), orig_shape)
    hidden_states = hidden_states + m.shared_experts(residuals)
    if "post_mlp_layernorm" in m.parts:  # A.X-K1
        return m.post_mlp_layernorm(hidden_states)  # type: ignore[no-any-return]
    return hidden_states


def deepseek_v3_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV3TopkRouter.forward: in fp32, sigmoid scores, first the best groups, then the best experts."""
    tape = m.tape
    hidden_states = _flat(hidden_states)
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
    hidden_states = _flat(hidden_states)
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
    hidden_states = _flat(hidden_states)
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
    _, topk_weights, topk_indices = _routed(m, deepseek_v3_router, hidden_states)
    hidden_states = _flat(hidden_states)
    return ops.view(m[m.experts_name](hidden_states, topk_indices, topk_weights), orig_shape)


def nemotron_h(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror NemotronHMoE.forward: DeepSeek-V3's, with experts in a smaller space between two maps, if there is one."""
    residuals = hidden_states
    orig_shape = hidden_states.shape
    _, topk_weights, topk_indices = _routed(m, deepseek_v3_router, hidden_states)
    hidden_states = _flat(hidden_states)
    if "fc1_latent_proj" in m.parts:
        hidden_states = m.fc1_latent_proj(hidden_states)
    hidden_states = m[m.experts_name](hidden_states, topk_indices, topk_weights)
    if "fc2_latent_proj" in m.parts:
        hidden_states = m.fc2_latent_proj(hidden_states)
    hidden_states = ops.view(hidden_states, orig_shape)
    hidden_states = hidden_states + m.shared_experts(residuals)
    return hidden_states


def gpt_oss(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror GptOssMLP.forward, which returns the scores too."""
    shape = hidden_states.shape
    hidden_states = _flat(hidden_states)
    _, router_scores, router_indices = _routed(m, gpt_oss_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, router_indices, router_scores)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states, router_scores


def gpt_oss_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror GptOssTopKRouter.forward: the k largest logits, then a softmax over them."""
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    router_top_value, router_indices = ops.topk(router_logits, m.top_k)
    router_scores = ops.softmax_as_is(router_top_value)
    return router_logits, router_scores, router_indices


def ernie4_5_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Ernie4_5_MoeSparseMoeBlock.forward: shared experts first, added last."""
    batch_size, sequence_length, _ = hidden_states.shape
    hidden_states = _flat(hidden_states)
    if m.shared_experts is not None:
        shared_output = m.shared_experts(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, ernie4_5_moe_router, hidden_states)
    final_hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    if m.shared_experts is not None:
        final_hidden_states = final_hidden_states + shared_output
    final_hidden_states = ops.view(final_hidden_states, (batch_size, sequence_length, hidden_states.shape[-1]))
    return ops.cast(final_hidden_states, hidden_states.dtype)


def ernie4_5_moe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Ernie4_5_MoeTopKRouter.forward: outside of autocast, in fp32, chosen with a correction."""
    with m.tape.without_autocast():
        router_logits = ops.linear(ops.cast(hidden_states, "fp32"), ops.cast(router.value("weight"), "fp32"))
        routing_weights = ops.softmax_in_fp32(router_logits)
        _, selected_experts = ops.topk(routing_weights + router.moe_statics.e_score_correction_bias, m.top_k)
        routing_weights = ops.gather(routing_weights, selected_experts)
        routing_weights = ops.divide(
            routing_weights, ops.clamp(ops.sum_over(routing_weights, -1, keepdim=True))
        )  # fmt: skip
    routing_weights = ops.cast(routing_weights, hidden_states.dtype)
    return router_logits, routing_weights, selected_experts


def granitemoe(m: Bound, layer_input: Sym) -> Sym:
    """Mirror GraniteMoeMoE.forward."""
    hidden_states = _flat(layer_input)
    _, top_k_weights, top_k_index = _routed(m, granitemoe_router, hidden_states)
    layer_output = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    return ops.view(layer_output, layer_input.shape)


def granitemoe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror GraniteMoeTopKRouter.forward: the k largest logits in fp32, then a softmax over them."""
    router_logits = ops.cast(ops.linear(hidden_states, router.value("weight")), "fp32")
    top_k_logits, top_k_index = ops.topk(router_logits, m.top_k)
    top_k_weights = ops.cast(ops.softmax(top_k_logits), hidden_states.dtype)
    return router_logits, top_k_weights, top_k_index


def afmoe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror AfmoeSparseMoeBlock.forward: the shared experts between the router and the others, added to first."""
    batch_size, seq_len, hidden_dim = hidden_states.shape
    hidden_states_flat = _flat(hidden_states)
    _, top_scores, selected_experts = _routed(m, afmoe_router, hidden_states)
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
    hidden_states = _flat(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, hy_v3_router, hidden_states)
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
    hidden_states = _flat(hidden_states)
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
    hidden_states = _flat(hidden_states)
    shared_output = m.shared_experts(hidden_states)
    router = laguna_router if m.style == "laguna" else minimax_m2_router
    _, routing_weights, selected_experts = _routed(m, router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, selected_experts, routing_weights)
    hidden_states = hidden_states * SCALE
    hidden_states = hidden_states + shared_output
    hidden_states = ops.view(hidden_states, (batch_size, sequence_length, hidden_dim))
    return hidden_states


def laguna_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror LagunaTopKRouter.forward: sigmoid scores in fp32, of logits that a tanh may bound, chosen corrected."""
    hidden_states = _flat(hidden_states)
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


def lfm2_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Lfm2MoeSparseMoeBlock.forward."""
    hidden_states_reshaped = _flat(hidden_states)
    _, routing_weights, selected_experts = _routed(m, lfm2_moe_router, hidden_states_reshaped)
    final_hidden_states = m[m.experts_name](hidden_states_reshaped, selected_experts, routing_weights)
    return ops.view(final_hidden_states, hidden_states.shape)


def lfm2_moe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Lfm2MoeTopKRouter.forward: sigmoid scores, chosen with a bias where the mixture has one."""
    router_logits = ops.linear(hidden_states, router.value("weight"))
    routing_weights = ops.sigmoid(router_logits)
    if "expert_bias" in m.parts:
        scores_for_routing = routing_weights + m.expert_bias
        _, selected_experts = ops.topk(scores_for_routing, m.top_k)
        routing_weights = ops.gather(routing_weights, selected_experts)
    else:
        routing_weights, selected_experts = ops.topk(routing_weights, m.top_k)
    if m.normalised:
        routing_weights = ops.divide(routing_weights, ops.sum_over(routing_weights, -1, keepdim=True) + 1e-6)
    routing_weights = routing_weights * SCALE
    return router_logits, routing_weights, selected_experts


def hunyuan_v1_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror HunYuanMoEV1Moe.forward: the shared MLP first, added last."""
    batch_size, sequence_length, hidden_dim = hidden_states.shape
    hidden_states_mlp: Sym = m.shared_mlp(hidden_states)
    hidden_states = _flat(hidden_states)
    _, routing_weights, selected_experts = _routed(m, hunyuan_v1_moe_router, hidden_states)
    final_hidden_states = ops.view(
        m[m.experts_name](hidden_states, selected_experts, routing_weights), (batch_size, sequence_length, hidden_dim)
    )
    return final_hidden_states + hidden_states_mlp


def hunyuan_v1_moe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror HunYuanMoEV1Gate.forward: in fp32, a softmax whose k largest are made to add up to 1."""
    hidden_states = ops.cast(_flat(hidden_states), "fp32")
    router_logits = router.wg(hidden_states)
    routing_weights = ops.softmax_in_fp32(router_logits)
    routing_weights, selected_experts = ops.topk(routing_weights, m.top_k)
    routing_weights = ops.divide_in_place(routing_weights, ops.sum_over(routing_weights, -1, keepdim=True))
    return router_logits, ops.cast(routing_weights, router_logits.dtype), selected_experts


def llama4(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror Llama4TextMoe.forward: every expert computes every token, its input scaled by a score; also the logits."""
    check_mixture(m.tape)
    hidden_states = _flat(hidden_states)
    tokens, hidden = hidden_states.shape
    router_scores, router_logits = m[m.router_name](hidden_states, partial(llama4_router, m))
    routed_in = ops.view(
        ops.repeat_first(ops.unsqueeze(hidden_states, 0), m.num_experts), (m.num_experts * tokens, hidden)
    )
    routed_in = routed_in * ops.view(ops.transpose(router_scores, 0, 1), (m.num_experts * tokens, 1))
    routed_out = m[m.experts_name](routed_in)
    out = m.shared_expert(hidden_states)
    out = ops.add_(out, ops.sum_over(ops.view(routed_out, (m.num_experts, tokens, hidden)), 0))
    return out, router_logits


def llama4_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror Llama4Router.forward: a sigmoid of the k largest logits, zero for all others."""
    router_logits = ops.linear(hidden_states, router.value("weight"))
    router_top_value, router_indices = ops.topk(router_logits, m.top_k)
    router_scores = ops.scatter(router_top_value, router_indices, m.num_experts)
    router_scores = ops.cast(ops.sigmoid(ops.cast(router_scores, "fp32")), router_scores.dtype)
    return router_scores, router_logits


def jamba(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror JambaSparseMoeBlock.forward."""
    shape = hidden_states.shape
    hidden_states = _flat(hidden_states)
    _, top_k_weights, top_k_index = _routed(m, jamba_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states


def jamba_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror JambaTopKRouter.forward: a softmax in fp32, the k largest as they are."""
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    routing_weights = ops.softmax_in_fp32(router_logits)
    top_k_weights, top_k_index = ops.topk(routing_weights, m.top_k)
    return router_logits, ops.cast(top_k_weights, hidden_states.dtype), top_k_index


def gemma4_router(router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Gemma4TextRouter.forward: a norm, a scale for each channel, and one for each expert of the weights."""
    hidden_states = router.norm(hidden_states)
    hidden_states = hidden_states * router.value("scale") * 1.0
    expert_scores = router.proj(hidden_states)
    router_probabilities = ops.softmax_in_fp32(expert_scores)
    top_k_weights, top_k_index = ops.topk(router_probabilities, router.top_k)
    top_k_weights = ops.divide_in_place(top_k_weights, ops.sum_over(top_k_weights, -1, keepdim=True))
    top_k_weights = top_k_weights * ops.take(router.value("per_expert_scale"), top_k_index)
    return router_probabilities, top_k_weights, top_k_index


STYLES: dict[str, Callable[[Bound, Sym], Any]] = {
    "afmoe": afmoe,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "ernie4_5_moe": ernie4_5_moe,
    "gpt_oss": gpt_oss,
    "granitemoe": granitemoe,
    "jamba": jamba,
    "laguna": laguna,
    "lfm2_moe": lfm2_moe,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "hy_v3": hy_v3,
    "hy_v3 in fp32": hy_v3,
    "llama4": llama4,
    "mimo_v2_flash": mimo_v2_flash,
    "minimax_m2": minimax_m2,
    "minimax_m3": laguna,
    "mistral4": deepseek,
    "mixtral": mixtral,
    "nemotron_h": nemotron_h,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
    "step3p5": laguna,
}
