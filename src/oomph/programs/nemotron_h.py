"""NemotronHForCausalLM.forward with its local variables: one mixer a layer, Mamba-2, attention, an MLP or experts.

Source: transformers 5.23, models/nemotron_h/modeling_nemotron_h.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.blocks.attention import Attention
from oomph.blocks.mamba import Mamba2
from oomph.errors import UnsupportedError
from oomph.programs.cache import LINEAR, Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, no_buffers
from oomph.programs.loss import causal_lm_loss, kept
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

buffers = no_buffers  # no attention is told positions


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, states, or nothing, for which states stand too."""
    return _kinds(m.backbone)


def _kinds(m: Bound) -> list[Size | None]:
    return [None if isinstance(layer.mixer.block, Attention) else LINEAR for layer in m.layers]


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror NemotronHBlock.forward."""
    residual = hidden_states
    hidden_states = m.norm(ops.cast(hidden_states, m.norm.weight.dtype))
    if isinstance(m.mixer.block, Mamba2):
        hidden_states = m.mixer(hidden_states, past_key_values, attention_mask, index)
    elif isinstance(m.mixer.block, Attention):
        hidden_states, _ = m.mixer(hidden_states, None, attention_mask, past_key_values, index)
    else:
        hidden_states = m.mixer(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    inputs_embeds: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    attention_mask: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror NemotronHModel.forward."""
    kinds = _kinds(m)
    inputs_embeds = m.embeddings(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    hidden_states: Sym = inputs_embeds
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    for index, mixer_block in enumerate(m.layers):
        mixes = isinstance(mixer_block.mixer.block, (Attention, Mamba2))
        hidden_states = call(
            mixer_block, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]] if mixes else None, position_ids=position_ids,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm_f(hidden_states)
    return hidden_states, past_key_values


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
    """Mirror NemotronHForCausalLM.forward: loss, logits, which are handed to it in fp32, and cache."""
    if "lm_head" not in m.parts:
        raise UnsupportedError("transformers has no other head for Nemotron-H.", "Name its ...ForCausalLM class.")
    hidden_states, past_key_values = model(
        m.backbone, input_ids, checkpointing, position_ids=position_ids, past_key_values=past_key_values,
        use_cache=use_cache, attention_mask=attention_mask,
    )  # fmt: skip
    hidden_states = kept(hidden_states, logits_to_keep)
    logits = ops.cast(m.lm_head(hidden_states), "fp32")
    loss = None if labels is None else causal_lm_loss(logits, labels)
    return loss, logits, past_key_values
