"""LlamaForCausalLM.forward and its likes (Mistral, Qwen2, Qwen3), with their local variables.

Source: transformers 5.23, models/llama/modeling_llama.py; models/qwen2 and qwen3 hold a dict of mask arguments to the
end of the model's forward, which keeps the embeddings and position ids alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph import ops
from oomph.blocks.attention import Attention
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.classify import classified
from oomph.programs.loss import causal_lm_loss, kept
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

HOLDS_MASK_ARGUMENTS = frozenset({"qwen2", "qwen3"})
IDS_FIRST = frozenset({"mistral"})  # hands position_ids to its layers before position_embeddings


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq, which are no parameters and not stored but on the device."""
    return [m.tape.empty((head_dim(m.model) // 2,), "fp32", op="inv_freq") for _ in range(2)]


def decoder_layer(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym],
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror LlamaDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states

    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror LlamaModel.forward: the last hidden state [B, S, H] and the cache.

    Locals die in the order in which a frame lists them, arguments first: hence position_ids before inputs_embeds.
    """
    tape = m.tape
    windows = _windows(m)
    inputs_embeds = m.embed_tokens(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, windows)
    packed = position_ids
    if position_ids is None:
        position_ids = ops.unary(tape.empty((input_ids.shape[1],), "int64", op="arange"), "add")
        position_ids = ops.unsqueeze(position_ids, 0)
    causal_masks = {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed)
        for window in mask_order(windows, model_type)
    }
    if model_type in HOLDS_MASK_ARGUMENTS:
        mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, head_dim(m))

    for index, layer in enumerate(m.layers):
        tape.begin_layer(index, layer.path)
        if checkpointing.takes(index):
            hidden_states = checkpointing(
                tape,
                _Call(layer, position_embeddings, causal_masks[windows[index]], position_ids, model_type),
                hidden_states,
            )
        else:
            hidden_states = decoder_layer(
                layer, hidden_states, position_embeddings, causal_masks[windows[index]], past_key_values, index
            )
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return _windows(m.model)


def _windows(m: Bound) -> list[Size | None]:
    return [layer.self_attn.sliding_window for layer in m.layers]


def mask_order(windows: Sequence[Size | None], model_type: str) -> list[Size | None]:
    """Return the windows for which masks are made, in order: Qwen always makes the full one first."""
    distinct = list(dict.fromkeys(windows))
    if model_type in HOLDS_MASK_ARGUMENTS:
        return [None, *(window for window in distinct if window is not None)]
    return distinct


class _Call:
    """partial(layer.__call__, **kwargs) as transformers hands it to checkpoint: it keeps the arguments alive.

    They die in the order in which the model's forward spells them.
    """

    def __init__(
        self, layer: Bound, position_embeddings: tuple[Sym, Sym], mask: Sym | None, ids: Sym, model_type: str
    ) -> None:
        self.layer = layer
        rotary, positions = {"position_embeddings": position_embeddings}, {"position_ids": ids}
        # A dict, not attributes: instances of a class share the order of their attributes.
        self.arguments: dict[str, Any] = {"attention_mask": mask}
        self.arguments |= {**positions, **rotary} if model_type in IDS_FIRST else {**rotary, **positions}

    def __call__(self, hidden_states: Sym) -> Sym:
        arguments = self.arguments
        return decoder_layer(self.layer, hidden_states, arguments["position_embeddings"], arguments["attention_mask"])


def head_dim(m: Bound) -> int:
    """Return the width of the rotary tables."""
    block = next(iter(m.layers)).self_attn.block
    if not isinstance(block, Attention):
        raise TypeError("the layers of this frame hold plain attention")
    return block.head_dim


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
) -> tuple[Sym | None, Sym, Cache | None]:
    """Mirror LlamaForCausalLM.forward: loss, logits and cache."""
    hidden_states, past_key_values = model(
        m.model,
        input_ids,
        checkpointing,
        model_type,
        attention_mask,
        position_ids,
        past_key_values,
        use_cache=use_cache,
    )
    if "score" in m.parts:
        states = [hidden_states]
        del hidden_states  # a local of the frame that goes on
        return classified(m, states, input_ids, labels, past_key_values)
    hidden_states = kept(hidden_states, logits_to_keep)
    m.tape.scope = "lm_head"
    weight = m.lm_head.parts["weight"]
    logits = ops.linear(hidden_states, m.model.embed_tokens.weight if weight is None else weight)
    loss = None
    if labels is not None:
        loss = causal_lm_loss(logits, labels)
    return loss, logits, past_key_values
