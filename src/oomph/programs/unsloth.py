"""Unsloth's forward pass of Llama, Mistral, Qwen 2 and Qwen 3: no masks, rotary tables that stay.

The tables are made once for a multiple of 8192 positions, at least 32768 or as many as the model has; for packed rows,
whose position ids come along, for all of the model's. Where attention
has a window and flash-attn is not installed, sequences beyond it take a mask in every layer, which is not played.
Source: unsloth 2026.10.9, models/llama.py, LlamaModel_fast_forward, LlamaDecoderLayer_fast_forward,
LlamaRotaryEmbedding; transformers 5.17, modeling_layers.py, GradientCheckpointingLayer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.unsloth_attention import UnslothAttention
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.layers import Tables, residual
from oomph.programs.llama import rotary_size, scored
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, ceil_to, yes
from oomph.tape.sym import Sym

FRAME = FRAMES["llama"]
FIRST_ROWS = 4 * 8192  # positions that tables begin with: LlamaRotaryEmbedding.current_rope_size
ROWS = 8192  # in steps of so many they grow


def buffers(m: Bound) -> list[Sym]:
    """Return the rotary embedding's frequencies."""
    return [m.tape.empty((rotary_size(attention(m.model)) // 2,), "fp32", op="inv_freq")]


def attention(m: Bound) -> UnslothAttention:
    """Return the attention of the first layer."""
    block = next(iter(m.layers)).self_attn.block
    if not isinstance(block, UnslothAttention):
        raise TypeError("this frame is of models that Unsloth patched")
    return block


def tables_of(m: Bound, length: Size, packed: bool) -> Tables:
    """Mirror extend_rope_embedding and get_cached: cos and sin [rows, D], made by the first forward pass that asks.

    Up to 32768 positions they are fp32, the default dtype when the model was made; above, as wide as hidden states.
    """
    if "cos_cached" not in m.parts:
        block = attention(m)
        long = block.positions > FIRST_ROWS
        rows: Size = min(FIRST_ROWS, block.positions)
        if packed and long:
            rows = -(-block.positions // ROWS) * ROWS
        if yes(length > rows):
            rows = ceil_to(length, ROWS)
        dtype = m.tape.loaded if long else "fp32"
        for name in ("cos_cached", "sin_cached"):
            made = m.tape.empty((rows, rotary_size(block)), dtype, op=name)
            m.parts[name] = m.tape.note(made, "kept by a module")
    return m.parts["cos_cached"], m.parts["sin_cached"]


class Call:
    """partial(layer.__call__, **kwargs) as GradientCheckpointingLayer hands it on: it keeps what it is given alive."""

    def __init__(self, layer: Bound, position_embeddings: tuple[Sym, ...]) -> None:
        self.layer, self.position_embeddings = layer, position_embeddings

    def __call__(self, hidden_states: Sym) -> Sym:
        """Run the layer."""
        rotary: Any = self.position_embeddings  # with positions, if there are any
        return residual(self.layer, FRAME, hidden_states, rotary, None)


def model(m: Bound, input_ids: Sym, checkpointing: Checkpointing, position_ids: Sym | None) -> Sym:
    """Mirror LlamaModel_fast_forward in training: the last hidden state [B, S, H]."""
    tape = m.tape
    packed = () if position_ids is None else (ops.cast(position_ids, "int32"),)
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states = inputs_embeds
    position_embeddings = (*tables_of(m, input_ids.shape[1], bool(packed)), *packed)
    for index, layer in enumerate(m.layers):
        tape.begin_layer(index, layer.path)
        call = Call(layer, position_embeddings)
        checkpointed = partial(checkpointing, tape, call)
        hidden_states = checkpointed(hidden_states) if checkpointing.takes(index) else call(hidden_states)
    tape.end_layers()
    normed: Sym = m.norm(hidden_states)
    return normed


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    **options: Any,
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror CausalLM_fast_forward: loss, logits and no cache; a padding mask is dropped."""
    hidden_states = model(m.model, input_ids, checkpointing, position_ids)
    loss, logits = scored(m.lm_head, hidden_states, m.model.embed_tokens.weight, labels, 0)
    return loss, logits, None
