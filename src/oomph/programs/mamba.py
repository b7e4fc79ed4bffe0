"""MambaForCausalLM.forward, Falcon-Mamba's and Mamba-2's with their local variables: a norm and a mixer in every layer.

What layers add to is kept in fp32 if the config says so; logits are handed to the loss in fp32. Source: transformers
5.23, models/mamba/modeling_mamba.py, models/falcon_mamba/modeling_falcon_mamba.py, models/mamba2/modeling_mamba2.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, refuse_positions
from oomph.programs.loss import causal_lm_loss, kept
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return the scales that Falcon-Mamba keeps beside norms without any: [I], [N] and [N] in every layer."""
    mixers = [layer.mixer for layer in m.backbone.layers if getattr(layer.mixer.block, "inner_norms", "") == "bare"]
    return [
        m.tape.empty((size,), mixer.A_log.dtype, op="weight")
        for mixer in mixers
        for size in (mixer.inner_size, mixer.state_size, mixer.state_size)
    ]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what stands for the window of every layer: none of them keeps keys."""
    return [LINEAR for _ in m.backbone.layers]


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Mamba2Block.forward."""
    residual = hidden_states
    hidden_states = m.norm(ops.cast(hidden_states, m.norm.weight.dtype))
    if m.residual_in_fp32:
        residual = ops.cast(residual, "fp32")
    hidden_states = m.mixer(hidden_states, past_key_values, attention_mask, index)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    inputs_embeds: Sym | None = None,
    cache_params: Cache | None = None,
    use_cache: bool = False,
    attention_mask: Sym | None = None,
    looks: bool = True,
) -> tuple[Sym, Cache | None]:
    """Mirror Mamba2Model.forward, or MambaModel.forward, which does not look whether a mask has holes."""
    inputs_embeds = m.embeddings(input_ids)
    if use_cache and cache_params is None:
        cache_params = dynamic_cache(m.tape, [LINEAR for _ in m.layers])
    if looks:
        attention_mask = ops.recurrent_mask(inputs_embeds, attention_mask)
    elif cache_params is not None and yes(inputs_embeds.shape[1] == 1):
        attention_mask = None  # generate hands none on once there is a state
    hidden_states: Sym = inputs_embeds
    for index, mixer_block in enumerate(m.layers):
        hidden_states = call(
            mixer_block, index, block, checkpointing, cache_params, hidden_states, attention_mask=attention_mask
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm_f(hidden_states)
    return hidden_states, cache_params


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
    """Mirror Mamba2ForCausalLM.forward: loss, logits and cache."""
    refuse_positions(position_ids)
    if "lm_head" not in m.parts:
        raise UnsupportedError("transformers has Mamba as a language model alone.", "Name the ...ForCausalLM class.")
    hidden_states, past_key_values = model(
        m.backbone, input_ids, checkpointing, cache_params=past_key_values, use_cache=use_cache,
        attention_mask=attention_mask, looks=model_type == "mamba2",
    )  # fmt: skip
    hidden_states = kept(hidden_states, logits_to_keep)
    m.tape.scope = "lm_head"
    logits = ops.cast(_projected(m, hidden_states), "fp32")
    loss = None if labels is None else causal_lm_loss(logits, labels)
    return loss, logits, past_key_values


def _projected(m: Bound, hidden_states: Sym) -> Sym:
    """Return the head's output of [B, S, H] in the dtype of its weight, which may be the embedding's, or be adapted."""
    if "lora_A" in m.lm_head.parts:
        adapted: Sym = m.lm_head(ops.cast(hidden_states, m.lm_head.base_layer.weight.dtype))
        return adapted
    own: Sym | None = m.lm_head.parts["weight"]
    weight = m.backbone.embeddings.weight if own is None else own
    return ops.linear(ops.cast(hidden_states, weight.dtype), weight)
