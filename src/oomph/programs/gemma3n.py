"""Gemma3nForCausalLM.forward, and Gemma3nForConditionalGeneration's on text alone, with their local variables: several
inputs a layer (AltUp), of which one passes through it.

Each layer is also handed an embedding of its own; the last layers reuse keys and values of earlier ones. Shape letters:
A inputs, B batch, S sequence, H hidden, L layers, P size of the input per layer. Source: transformers 5.23,
models/gemma3n/modeling_gemma3n.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UsageError
from oomph.programs import gemma4, llama
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions
from oomph.programs.gemma4 import check_checkpoints, own_windows, sizes, sliding_windows
from oomph.programs.loss import kept
from oomph.programs.shared_kv import SharedStates
from oomph.programs.towers import tower_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

BRIDGES = ("model.embed_vision", "model.embed_audio")
__all__ = ["buffers", "causal_lm", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the audio tower's buffers, then the language model's."""
    if "language_model" not in m.model.parts:
        return model_buffers(m.model)
    return [*tower_buffers(m.model.audio_tower), *model_buffers(m.model.language_model)]


def model_buffers(m: Bound) -> list[Sym]:
    """Return the frequencies, the factors of embeddings, and those of each layer's router."""
    tape, found = m.tape, gemma4.model_buffers(m)
    for owner, name in (
        (m, "per_layer_projection_scale"), (m, "per_layer_input_scale"),
        *((layer.altup, "router_input_scale") for layer in m.layers),
    ):  # fmt: skip
        owner.parts[name] = tape.empty((), tape.loaded, op=name)
        found.append(owner.parts[name])
    return found


def check_coefficients(m: Bound) -> None:
    """Refuse what torch fails on: the class bounds weights of AltUp in place while training, which packed ones are
    not made for.
    """
    for layer in m.layers:
        for name in ("prediction_coefs", "correction_coefs"):
            coefs = layer.altup[name]
            weight = (coefs.base_layer if "base_layer" in coefs.parts else coefs).parts["weight"]
            if m.tape.training and (not isinstance(weight, Sym) or weight.dtype not in ("bf16", "fp16", "fp32")):
                raise UsageError(
                    "Gemma 3n bounds weights of its AltUp in place while training; torch refuses that for packed ones.",
                    "Train without quantization: --method lora.",
                )


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: not towers without an input, scales that a class leaves out,
    nor adapters of a map with which it multiplies itself, having bounded its weight.
    """
    layers = m.model.parts.get("language_model", m.model).layers
    passed_by = ["model.audio_tower.", *(f"{name}.soft_embedding_norm." for name in BRIDGES)]
    passed_by += [f"{layer.altup.path}.correction_coefs.lora_" for layer in layers]
    passed_by += [f"{layer.altup.path}.correct_output_scale" for layer in layers if not layer.scales]
    return [one for one in parameters if not one.made_for.startswith(tuple(passed_by))]


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror Gemma3nForCausalLM.forward or Gemma3nForConditionalGeneration.forward: loss, logits and cache."""
    inner = m.model
    whole = "language_model" in inner.parts
    body, given = (with_towers, {"labels": labels}) if whole else (model, {})
    hidden_states, past_key_values = body(
        inner, input_ids, checkpointing, attention_mask, position_ids, past_key_values, use_cache=use_cache, **given
    )
    hidden_states = kept(hidden_states, logits_to_keep)
    table = (inner.language_model if whole else inner).embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, 0)
    return loss, logits, past_key_values


def with_towers(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    inputs_embeds: Sym | None = None,
    per_layer_inputs: Sym | None = None,
    use_cache: bool = False,
    labels: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror Gemma3nModel.forward on text alone: every token is also embedded as if it were an image's or a sound's."""
    tape, language_model = m.tape, m.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    per_layer_inputs = inputs_per_layer(language_model, input_ids)
    vision_mask = between(input_ids)
    vision_input_ids = ops.where(vision_mask, input_ids)
    vision_embeds = ops.cast(hard_embedding(m.embed_vision, vision_input_ids), inputs_embeds.dtype)
    expanded_vision_mask = ops.unsqueeze(vision_mask, 2)
    inputs_embeds = ops.where_either(expanded_vision_mask, vision_embeds, inputs_embeds)
    audio_mask = tape.empty(input_ids.shape, "bool", op="ge")
    audio_input_ids = ops.where(audio_mask, input_ids)
    audio_embeds = ops.cast(hard_embedding(m.embed_audio, audio_input_ids), inputs_embeds.dtype)
    expanded_audio_mask = ops.unsqueeze(audio_mask, 2)
    inputs_embeds = ops.where_either(expanded_audio_mask, audio_embeds, inputs_embeds)
    return model(
        language_model, None, checkpointing, attention_mask, position_ids, past_key_values, inputs_embeds,
        per_layer_inputs, use_cache, labels=labels,
    )  # fmt: skip


def between(input_ids: Sym) -> Sym:
    """Mirror torch.logical_and(input_ids >= first, input_ids < end): booleans [B, S]."""
    tape = input_ids.tape
    above = tape.empty(input_ids.shape, "bool", op="ge")
    below = tape.empty(input_ids.shape, "bool", op="lt")
    found = tape.empty(input_ids.shape, "bool", op="logical_and")
    del above, below
    return found


def hard_embedding(m: Bound, input_ids: Sym) -> Sym:
    """Mirror Gemma3nMultimodalEmbedder.forward of token ids: [B, S, H]."""
    emb_norm: Sym | None = None  # dies before hard_emb
    hard_emb = m.embedding(ops.unary(input_ids, "sub"))
    emb_norm = m.hard_embedding_norm(hard_emb)
    emb_norm_proj = m.embedding_projection(emb_norm)
    made: Sym = m.embedding_post_projection_norm(emb_norm_proj)
    return made


def model(
    m: Bound,
    input_ids: Sym | None,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    per_layer_inputs: Sym | None = None,
    use_cache: bool = False,
    **given: Sym | None,
) -> tuple[Sym, Cache | None]:
    """Mirror Gemma3nTextModel.forward: the last hidden state [B, S, H] and the cache. What else it is `given`
    checkpointed layers hold.
    """
    packed = position_ids
    check_checkpoints(m, checkpointing)
    check_coefficients(m)
    if input_ids is not None:
        inputs_embeds = m.embed_tokens(input_ids)
        per_layer_inputs = inputs_per_layer(m, input_ids)
    if inputs_embeds is None or per_layer_inputs is None:
        raise ValueError("either ids or both embeddings of them")
    per_layer_inputs = projected(m, inputs_embeds, per_layer_inputs)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, own_windows(m))
    if position_ids is None:
        position_ids = counted_positions(inputs_embeds)
    causal_mask_mapping: llama.Masks = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    for window in sorted(sizes(m), key=lambda window: window is not None):
        causal_mask_mapping[window] = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed)
    hidden_states_0 = inputs_embeds
    target_magnitude = magnitude(hidden_states_0)
    temp_hidden_states = [hidden_states_0]
    for projection in m.altup_projections:
        altup_proj = projection(hidden_states_0)
        current_hidden_state = ops.cast(altup_proj, hidden_states_0.dtype)
        new_magnitude = ops.mean(ops.power(current_hidden_state))
        new_magnitude = ops.root(ops.clamp(new_magnitude))
        current_hidden_state = ops.divide(current_hidden_state * target_magnitude, new_magnitude)
        temp_hidden_states.append(current_hidden_state)
    hidden_states = ops.stack_first(temp_hidden_states)
    position_embeddings: gemma4.Tables = {}
    for window in llama.as_a_set(list(sizes(m))):
        position_embeddings[window] = ops.rotary_tables(hidden_states, position_ids, sizes(m)[window])
    shared_kv_states: SharedStates = {}
    for index, layer in enumerate(m.layers):
        window = layer.self_attn.sliding_window
        causal_mask = causal_mask_mapping[window]
        per_layer_input = ops.select(per_layer_inputs, 2, index)
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states, position_embeddings[window],
            per_layer_input, shared_kv_states=shared_kv_states, attention_mask=causal_mask, position_ids=position_ids,
            **given,
        )  # fmt: skip
    m.tape.end_layers()
    target_magnitude = magnitude(ops.select(hidden_states, 0))
    temp_hidden_states = [ops.select(hidden_states, 0)]
    for at, projection in enumerate(m.altup_unembed_projections, 1):
        altup_unemb_proj = projection(ops.select(hidden_states, 0, at))
        current_hidden_state = ops.cast(altup_unemb_proj, hidden_states_0.dtype)
        new_magnitude = ops.mean(ops.power(current_hidden_state))
        new_magnitude = ops.root(ops.clamp(new_magnitude))
        current_hidden_state = ops.divide(current_hidden_state * target_magnitude, new_magnitude)
        temp_hidden_states.append(current_hidden_state)
    hidden_states = ops.stack_first(temp_hidden_states)
    hidden_states = ops.mean_first(hidden_states)
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def magnitude(x: Sym) -> Sym:
    """Mirror torch.mean(x**2, dim=-1, keepdim=True) ** 0.5."""
    return ops.power(ops.mean(ops.power(x)))


def inputs_per_layer(m: Bound, input_ids: Sym) -> Sym:
    """Mirror get_per_layer_inputs: an embedding of each token for every layer, [B, S, L, P]; tokens that the table does
    not have count as the first one.
    """
    in_table = between(input_ids)
    input_ids = ops.where(in_table, input_ids)
    made: Sym = gemma4.inputs_per_layer(m, input_ids)
    return made


def projected(m: Bound, inputs_embeds: Sym, per_layer_inputs: Sym) -> Sym:
    """Mirror project_per_layer_inputs: what the embeddings say for every layer, and the layer's own beside it."""
    per_layer_projection = m.per_layer_model_projection(inputs_embeds)
    per_layer_projection = ops.scale_(
        per_layer_projection, ops.cast(m.per_layer_projection_scale, inputs_embeds.dtype)
    )  # fmt: skip
    per_layer_projection = gemma4.by_layer(m, per_layer_projection)
    per_layer_projection = m.per_layer_projection_norm(per_layer_projection)
    made: Sym = (per_layer_projection + per_layer_inputs) * ops.cast(m.per_layer_input_scale, inputs_embeds.dtype)
    return made


def block(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym],
    per_layer_input: Sym,
    shared_kv_states: SharedStates,
    attention_mask: Sym | None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
    labels: Sym | None = None,
) -> Sym:
    """Mirror Gemma3nTextDecoderLayer.forward on [A, B, S, H]."""
    predictions = predict(m, hidden_states)
    active_prediction = ops.select(predictions, 0, m.active)
    active_prediction_normed = m.input_layernorm(active_prediction)
    laurel_output = laurel(m.laurel, active_prediction_normed)
    attn, _ = m.self_attn(
        active_prediction_normed, position_embeddings, attention_mask, shared_kv_states, past_key_values, index
    )
    attn = m.post_attention_layernorm(attn)
    attn_gated = active_prediction + attn
    attn_laurel = (attn_gated + laurel_output) * 1.0
    attn_norm = m.pre_feedforward_layernorm(attn_laurel)
    attn_ffw = m.mlp(attn_norm)
    attn_ffw_norm = m.post_feedforward_layernorm(attn_ffw)
    attn_ffw_laurel_gated = attn_laurel + attn_ffw_norm
    corrected_predictions = correct(m, predictions, attn_ffw_laurel_gated)
    first_prediction = ops.clone(ops.select(corrected_predictions, 0, m.active))
    if m.scales:
        first_prediction = scaled(m.altup, first_prediction)
    first_prediction = m.per_layer_input_gate(first_prediction)
    first_prediction = ops.activate(m.mlp.activation, first_prediction)
    first_prediction = first_prediction * per_layer_input
    first_prediction = m.per_layer_projection(first_prediction)
    first_prediction = m.post_per_layer_input_norm(first_prediction)
    corrected_predictions = ops.add_to_inputs(corrected_predictions, first_prediction)
    return corrected_predictions


def laurel(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Gemma3nTextLaurelBlock.forward."""
    laurel_hidden_states = m.linear_left(hidden_states)
    laurel_hidden_states = m.linear_right(laurel_hidden_states)
    normed_laurel_hidden_states = m.post_laurel_norm(laurel_hidden_states)
    made: Sym = hidden_states + normed_laurel_hidden_states
    return made


def router_modalities(m: Bound, x: Sym) -> Sym:
    """Mirror compute_router_modalities: [B, S, H] to [B, S, A]."""
    router_inputs = m.router_norm(x) * m.router_input_scale
    routed = m.modality_router(router_inputs)
    return ops.cast(ops.tanh(ops.cast(routed, "fp32")), x.dtype)


def predict(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Gemma3nTextAltUp.predict: every input from all of them, [A, B, S, H]."""
    inputs = hidden_states.shape[0]
    modalities = router_modalities(m.altup, ops.select(hidden_states, 0, m.active))
    all_coefs = ops.permute(
        ops.view(m.altup.prediction_coefs(modalities), (*modalities.shape[:-1], inputs, inputs)), (0, 1, 3, 2)
    )
    predictions = ops.matmul(ops.permute(hidden_states, (1, 2, 3, 0)), all_coefs)
    predictions = ops.add_to_permuted(predictions, hidden_states, (3, 0, 1, 2))
    return ops.cast(ops.contiguous(predictions), hidden_states.dtype)


def correct(m: Bound, predictions: Sym, activated: Sym) -> Sym:
    """Mirror Gemma3nTextAltUp.correct: what the active input became, given to all of them, [A, B, S, H]."""
    modalities = router_modalities(m.altup, activated)
    innovation = activated - ops.select(predictions, 0, m.active)
    innovation = ops.repeat_inputs(innovation, predictions.shape[0])
    if m.tape.training:
        coefs = m.altup.correction_coefs
        weight = ops.clamp_both(coefs.base_layer.weight if "base_layer" in coefs.parts else coefs.weight)
        all_coefs = ops.linear(modalities, weight) + 1.0
    else:
        all_coefs = m.altup.correction_coefs(modalities) + 1.0
    all_coefs = ops.unsqueeze(ops.permute(all_coefs, (2, 0, 1)), 3)
    corrected = innovation * all_coefs
    corrected = ops.add_(corrected, predictions)
    return ops.cast(ops.contiguous(corrected), activated.dtype)


def scaled(m: Bound, corrected: Sym) -> Sym:
    """Mirror Gemma3nTextAltUp.forward."""
    scale = m.value("correct_output_scale")
    return ops.cast(ops.cast(corrected, scale.dtype) * scale, corrected.dtype)


def sparse_mlp(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Gemma3nTextMLP.forward: of the gate's values only the largest stay."""
    gate_proj = m.gate_proj(hidden_states)
    if m.sparse:
        gate_proj = gaussian_topk(gate_proj)
    activations = ops.activate(m.activation, gate_proj)
    up_proj = m.up_proj(hidden_states)
    down_proj: Sym = m.down_proj(activations * up_proj)
    return down_proj


def gaussian_topk(inputs: Sym) -> Sym:
    """Mirror _gaussian_topk: what is above a share of a normal distribution, whose two numbers lie on the host."""
    tape = inputs.tape
    target_sparsity_tensor = tape.empty((), "fp32", op="lift_fresh")  # noqa: F841  these live to the end
    if tape.on != "gpu":
        loc = tape.empty((), "fp32", op="lift_fresh")  # noqa: F841
        scale = tape.empty((), "fp32", op="lift_fresh")  # noqa: F841
    std_multiplier = quantile(tape)
    if inputs.dtype != "fp32":
        std_multiplier = tape.empty((), inputs.dtype, op="_to_copy")
    inputs_mean = ops.mean(inputs)
    inputs_std = ops.deviation(inputs)
    cutoff_x = inputs_mean + inputs_std * std_multiplier
    return ops.activate("relu", inputs - cutoff_x)


def quantile(tape: Tape) -> Sym:
    """Mirror Normal.icdf: loc + scale * erfinv(2 * value - 1) * sqrt(2)."""
    value = tape.empty((), "fp32", op="mul")
    for op in ("sub", "erfinv", "mul", "mul", "add"):
        value = tape.empty((), "fp32", op=op)
    return value
