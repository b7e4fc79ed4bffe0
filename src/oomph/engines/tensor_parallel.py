"""Which part of a parameter lies on one device of a tensor-parallel group, as vLLM and what took after it cut them.

Maps that read the hidden state are cut by their outputs, those that write it by their inputs; what every device needs
whole (norms, routers, down-projections into a latent vector, key heads that are too few) is there as often as there are
devices. Source: model_executor/layers/linear.py, vocab_parallel_embedding.py, distributed/utils.py of vLLM 0.19.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oomph.blocks.cached import TokenCache
from oomph.errors import UnsupportedError
from oomph.tensor import Weight

VOCAB_PADDING = 64  # DEFAULT_VOCAB_PADDING_SIZE

_BY_OUTPUT = """q_proj gate_proj up_proj gate_up_proj query_key_value c_attn c_fc fc1 fc_in wi wi_0 wi_1 w1 w3
    q_b_proj kv_b_proj in_proj_qkv in_proj_z in_proj_b in_proj_a in_proj_qkvz in_proj_ba in_proj dt_proj dense_h_to_4h
    linear_1 linear_fc1 input_linear up_projections conv1d q_conv1d k_conv1d v_conv1d f_b_proj g_b_proj b_proj g_proj
    ffn_in output_gate per_layer_model_projection linear_left mlp.0 conv patch_embedding"""
_BY_INPUT = """o_proj down_proj dense c_proj fc2 fc_out dense_4h_to_h out_proj wo w2 linear_2 linear_fc2 output_linear
    x_proj proj linear_right mlp.2"""
_WHOLE = """q_a_proj kv_a_proj_with_mqa gate router shared_expert_gate wq_b wk weights_proj eh_proj f_a_proj g_a_proj
    merging_layer patch_embed fc embedding_projection per_layer_input_gate per_layer_projection correction_coefs
    prediction_coefs modality_router fc1_latent_proj fc2_latent_proj mm_input_projection_weight project_in
    project_out conv1 conv2"""
BY_OUTPUT, BY_INPUT, WHOLE = (frozenset(words.split()) for words in (_BY_OUTPUT, _BY_INPUT, _WHOLE))
KEYS = frozenset({"k_proj", "v_proj"})
FUSED_KEYS = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack", "qkv", "wqkv"})
OF_HEADS = frozenset({"sinks", "A_log", "dt_bias", "D"})  # one number per head
WORDS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embeddings", "embed_tokens_per_layer"}
)
# Towers whose classes in vLLM know nothing of tensor parallelism: pixtral.py of Mistral's own format.
WHOLE_TOWERS = frozenset({"mistral3", "pixtral", "gemma4"})
TOWERS = frozenset({"vision", "audio", "projector"})


def module_of(weight: Weight) -> tuple[str, str]:
    """Return the name of the module that holds a weight, and that of the weight in it.

    >>> from oomph.tensor import Tensor
    >>> module_of(Weight("model.layers.*.self_attn.q_proj.weight", Tensor((8, 8), "linear"), "attention"))
    ('q_proj', 'weight')
    """
    parts = [part for part in weight.name.split(".") if part not in ("*", "linear")]
    leaf = parts[-1]
    if leaf not in ("weight", "bias") or len(parts) == 1:
        return leaf, leaf
    numbered = parts[-2].isdecimal() and len(parts) > 2
    return ".".join(parts[-3:-1]) if numbered else parts[-2], leaf


def divided(what: str, total: int, by: int) -> int:
    """Return a share of a dimension; raises UnsupportedError where it cannot be shared evenly."""
    if total % by:
        raise UnsupportedError(
            f"There is no sharing {what} of {total:,} among {by} devices.", "Choose a number that divides it."
        )
    return total // by


def key_heads(heads: int, tp: int) -> int:
    """Return the key heads of one device: each stands on several where there are fewer of them than devices.

    >>> key_heads(8, 2), key_heads(4, 8)
    (4, 1)
    """
    if heads >= tp:
        return divided("key heads", heads, tp)
    if tp % heads:
        raise UnsupportedError(f"{heads} key heads do not lie evenly on {tp} devices.", "Ask for a multiple of them.")
    return 1


def vocabulary(weight: Weight, tp: int, padding: int = VOCAB_PADDING) -> Weight:
    """Return the rows of a vocabulary matrix on one device, padded as vLLM pads them."""
    rows = -(-weight.shape[0] // padding) * padding
    return reshaped(weight, 0, divided("the padded vocabulary", rows, tp))


def reshaped(weight: Weight, axis: int, size: int) -> Weight:
    """Return a weight with another size of one axis."""
    shape = (*weight.shape[:axis], size, *weight.shape[axis + 1 :])
    return replace(weight, tensor=replace(weight.tensor, shape=shape))


def on_rank(weight: Weight, tp: int, kept: TokenCache | None, model_type: str) -> Weight:
    """Return a weight as one of `tp` devices holds it. `kept` is what its layer keeps of tokens, for the key heads.

    Raises UnsupportedError for a map of which it is not known how it is cut.
    """
    if tp == 1:
        return weight
    module = module_of(weight)[0]
    if weight.kind in TOWERS and (model_type in WHOLE_TOWERS or weight.role in ("conv", "embedding", "norm", "param")):
        return weight
    if weight.role in ("norm", "router", "buffer", "bias buffer", "embedding"):
        return weight
    is_map = weight.role in ("linear", "expert", "conv1d", "conv")
    out, into = (1, 0) if weight.role == "conv1d" else (0, 1)
    if module in KEYS and kept is not None and weight.kind not in TOWERS:
        rows = weight.shape[out] // kept.heads
        return reshaped(weight, out, rows * key_heads(kept.heads, tp))
    if module == "q_proj" and kept is not None and kept.kind == "attention" and weight.kind not in TOWERS:
        return reshaped(weight, out, divided("query heads", weight.shape[out] // kept.key_dim, tp) * kept.key_dim)
    if module in FUSED_KEYS and kept is not None and weight.kind not in TOWERS:
        each = kept.key_dim + kept.value_dim
        queries = (weight.shape[out] - kept.heads * each) // kept.key_dim
        mine = divided("query heads", queries, tp) * kept.key_dim + key_heads(kept.heads, tp) * each
        return reshaped(weight, out, mine)
    if module in OF_HEADS:
        heads = max(range(len(weight.shape)), key=lambda axis: weight.shape[axis])
        return reshaped(weight, heads, divided(module, weight.shape[heads], tp))
    if module in BY_OUTPUT or module in KEYS or module in FUSED_KEYS:
        return reshaped(weight, out, divided(module, weight.shape[out], tp))
    if module in BY_INPUT:
        return reshaped(weight, into, divided(module, weight.shape[into], tp)) if is_map else weight
    if module in WHOLE or not is_map:
        return weight
    raise UnsupportedError(f"How {weight.name} is shared among devices is not known here.", "Ask for one device.")


def experts_of(weight: Weight, devices: int) -> Weight:
    """Return the experts of one device, whole: of what does not divide the first devices have one more."""
    mine = weight.places[-1][: -(-len(weight.places[-1]) // devices)]
    return replace(weight, places=(*weight.places[:-1], mine))


FUSIONS: Mapping[str, str] = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w3": "gate_up_proj", "q_a_proj": "fused_qkv_a_proj",
    "kv_a_proj_with_mqa": "fused_qkv_a_proj", "in_proj_qkv": "in_proj_qkvz", "in_proj_z": "in_proj_qkvz",
    "in_proj_b": "in_proj_ba", "in_proj_a": "in_proj_ba",
}  # fmt: skip


def fused(name: str) -> str:
    """Return the name of the tensor that a stored one is part of: maps of one input lie side by side, experts too.

    >>> fused("model.layers.*.self_attn.k_proj.weight"), fused("model.layers.*.mlp.experts.*.up_proj.weight")
    ('model.layers.*.self_attn.qkv_proj.weight', 'model.layers.*.mlp.experts.gate_up_proj.weight')
    """
    parts = name.replace(".experts.*.", ".experts.").split(".")
    parts = [FUSIONS.get(part, part) for part in parts]
    return ".".join(parts)
