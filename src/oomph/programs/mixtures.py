"""Sparse blocks: which experts each token goes to, and what is added to theirs. One function per family's form.

Shape letters: T tokens, H hidden, E experts, k experts of a token. Source: transformers 5.23, the classes named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.corrected import afmoe, deepseek, hy_v3, laguna, mimo_v2_flash, minimax_m2, nemotron_h
from oomph.programs.experts import check_mixture
from oomph.programs.routed import SCALE, flat, routed
from oomph.programs.sparsemixer import phimoe
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym


def mixture(m: Bound, hidden_states: Sym) -> Any:
    """Run the sparse block of a mixture's style on [B, S, H]."""
    if m.style not in STYLES or m.stacked is None:
        raise UnsupportedError("oomph has no program for this mixture of experts yet.", "Trace the model: oomph trace.")
    return STYLES[m.style](m, hidden_states)


def mixtral(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MixtralSparseMoeBlock.forward."""
    shape = hidden_states.shape
    hidden_states = flat(hidden_states)
    _, top_k_weights, top_k_index = routed(m, mixtral_router, hidden_states)
    hidden_states = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    hidden_states = ops.view(hidden_states, shape)
    return hidden_states


def mixtral_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror MixtralTopKRouter.forward: fp32 softmax over all experts, the k largest made to add up to 1.

    Returns logits [T, E], weights and int64 indices [T, k].
    """
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    router_probs = ops.softmax(ops.cast(router_logits, "fp32"))
    router_top_value, router_indices = ops.topk(router_probs, m.top_k)
    router_top_value = ops.divide_in_place(router_top_value, ops.sum_over(router_top_value, -1, keepdim=True))
    router_scores = router_top_value
    return router_logits, router_scores, router_indices


def olmoe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror OlmoeSparseMoeBlock.forward."""
    shape = hidden_states.shape
    hidden_states = flat(hidden_states)
    _, top_k_weights, top_k_index = routed(m, qwen_router, hidden_states)
    final_hidden_states = ops.view(m[m.experts_name](hidden_states, top_k_index, top_k_weights), shape)
    return final_hidden_states


def qwen3_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Qwen3MoeSparseMoeBlock.forward."""
    hidden_states_reshaped = flat(hidden_states)
    _, routing_weights, selected_experts = routed(m, qwen_router, hidden_states_reshaped)
    final_hidden_states = m[m.experts_name](hidden_states_reshaped, selected_experts, routing_weights)
    return ops.view(final_hidden_states, hidden_states.shape)


def qwen2_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Qwen2MoeSparseMoeBlock.forward: a shared expert comes first, behind a sigmoid of its own."""
    shape = hidden_states.shape
    hidden_states_reshaped = flat(hidden_states)
    shared_expert_output = m.shared_expert(hidden_states_reshaped)
    _, routing_weights, selected_experts = routed(m, qwen_router, hidden_states_reshaped)
    expert_output = m[m.experts_name](hidden_states_reshaped, selected_experts, routing_weights)
    shared_expert_output = ops.sigmoid(m.shared_expert_gate(hidden_states_reshaped)) * shared_expert_output
    expert_output = expert_output + shared_expert_output
    expert_output = ops.view(expert_output, shape)
    return expert_output


def qwen_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror Qwen2MoeTopKRouter.forward, OLMoE's and Qwen3's the same: weights in the logits' dtype."""
    hidden_states = flat(hidden_states)
    router_logits = ops.linear(hidden_states, router.value("weight"), router.parts["bias"])
    router_probs = ops.softmax_in_fp32(router_logits)
    router_top_value, router_indices = ops.topk(router_probs, m.top_k)
    if m.normalised:
        router_top_value = ops.divide_in_place(router_top_value, ops.sum_over(router_top_value, -1, keepdim=True))
    router_top_value = ops.cast(router_top_value, router_logits.dtype)
    router_scores = router_top_value
    return router_logits, router_scores, router_indices


def gpt_oss(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror GptOssMLP.forward, which returns the scores too."""
    shape = hidden_states.shape
    hidden_states = flat(hidden_states)
    _, router_scores, router_indices = routed(m, gpt_oss_router, hidden_states)
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
    hidden_states = flat(hidden_states)
    if m.shared_experts is not None:
        shared_output = m.shared_experts(hidden_states)
    _, top_k_weights, top_k_index = routed(m, ernie4_5_moe_router, hidden_states)
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
    hidden_states = flat(layer_input)
    _, top_k_weights, top_k_index = routed(m, granitemoe_router, hidden_states)
    layer_output = m[m.experts_name](hidden_states, top_k_index, top_k_weights)
    return ops.view(layer_output, layer_input.shape)


def granitemoe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror GraniteMoeTopKRouter.forward: the k largest logits in fp32, then a softmax over them."""
    router_logits = ops.cast(ops.linear(hidden_states, router.value("weight")), "fp32")
    top_k_logits, top_k_index = ops.topk(router_logits, m.top_k)
    top_k_weights = ops.cast(ops.softmax(top_k_logits), hidden_states.dtype)
    return router_logits, top_k_weights, top_k_index


def lfm2_moe(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Lfm2MoeSparseMoeBlock.forward."""
    hidden_states_reshaped = flat(hidden_states)
    _, routing_weights, selected_experts = routed(m, lfm2_moe_router, hidden_states_reshaped)
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
    hidden_states = flat(hidden_states)
    _, routing_weights, selected_experts = routed(m, hunyuan_v1_moe_router, hidden_states)
    final_hidden_states = ops.view(
        m[m.experts_name](hidden_states, selected_experts, routing_weights), (batch_size, sequence_length, hidden_dim)
    )
    return final_hidden_states + hidden_states_mlp


def hunyuan_v1_moe_router(m: Bound, router: Bound, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror HunYuanMoEV1Gate.forward: in fp32, a softmax whose k largest are made to add up to 1."""
    hidden_states = ops.cast(flat(hidden_states), "fp32")
    router_logits = router.wg(hidden_states)
    routing_weights = ops.softmax_in_fp32(router_logits)
    routing_weights, selected_experts = ops.topk(routing_weights, m.top_k)
    routing_weights = ops.divide_in_place(routing_weights, ops.sum_over(routing_weights, -1, keepdim=True))
    return router_logits, ops.cast(routing_weights, router_logits.dtype), selected_experts


def llama4(m: Bound, hidden_states: Sym) -> tuple[Sym, Sym]:
    """Mirror Llama4TextMoe.forward: every expert computes every token, its input scaled by a score; also the logits."""
    check_mixture(m.tape)
    hidden_states = flat(hidden_states)
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
    hidden_states = flat(hidden_states)
    _, top_k_weights, top_k_index = routed(m, jamba_router, hidden_states)
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
