"""ZambaForCausalLM.forward with its local variables: Mamba-1 of several heads in every layer, one shared transformer
block beside some.

A layer with the block checkpoints, and so does the Mamba layer within it. Every head is scanned for itself, token by
token. Source: transformers 5.23, models/zamba/modeling_zamba.py.
"""

# ruff: noqa: N806  state-space matrices have capital letters, here as in the class
from __future__ import annotations

from functools import partial
from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.programs.cache import HYBRID, LINEAR, Cache, dynamic_cache
from oomph.programs.causal_conv import causal_conv1d_fn, causal_conv1d_update, last_tokens, masked, squeezed
from oomph.programs.frame import call, counted_positions, language_model, no_buffers
from oomph.programs.mamba1 import selective_scan, selective_state_update
from oomph.programs.zamba2 import mamba_layer
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, settled, yes
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "mixer", "sliding_windows"]
buffers = no_buffers


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: states, beside the shared block keys and values too."""
    return kinds_of(m.model)


def kinds_of(m: Bound) -> list[Size | None]:
    """Return which layers of a model have the shared block beside their mixer."""
    return [HYBRID if "shared_transf" in layer.parts else LINEAR for layer in m.layers]


def shared_blocks(m: Bound) -> list[Bound]:
    """Return the block beside each layer that has one, in order: that which is stored first where it holds nothing."""
    places = [layer.shared_transf for layer in m.layers if "shared_transf" in layer.parts]
    if any("lora_A" in part.parts for place in places for part in _maps(place)):
        fix = "Name maps of the mixers (--targets in_proj,out_proj), or trace it: oomph trace."
        raise UnsupportedError("oomph cannot play adapters on shared blocks, of which PEFT makes one per use.", fix)
    return [place if place.parts else places[0] for place in places]


def _maps(block: Bound) -> list[Bound]:
    """Return the maps of a block, none of one that is stored elsewhere."""
    sublayers = [block[name] for name in ("self_attn", "feed_forward") if name in block.parts]
    return [part for each in sublayers for part in each.parts.values() if part is not None]


def mixer(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror ZambaMambaMixer.forward: hidden_states [B, S, H] in and out."""
    batch_size, seq_len, _ = hidden_states.shape
    dtype = hidden_states.dtype
    heads, width = settled(m.num_heads), m.inner_size // m.num_heads
    recurrent_state = None if cache_params is None else cache_params.recurrent_state(index)

    hidden_states = masked(hidden_states, attention_mask)
    projected_states = ops.transpose(m.in_proj(hidden_states), 1, 2)
    pairs = ops.view(projected_states, (batch_size, m.inner_size, 2, seq_len))
    hidden_states_B_C, gate = ops.split_axis(pairs, 2, (1, 1))
    del pairs
    hidden_states_B_C = ops.contiguous(ops.view(hidden_states_B_C, (batch_size, m.inner_size, seq_len)))
    gate = ops.transpose(ops.view(gate, (batch_size, heads, width, seq_len)), 0, 1)

    conv, conv_state = m.conv1d, None if cache_params is None else cache_params.conv_state(index)
    if conv_state is not None and yes(seq_len == 1):
        hidden_states_B_C = causal_conv1d_update(
            hidden_states_B_C, conv_state, squeezed(conv), conv.parts["bias"], m.activation
        )  # fmt: skip
    else:
        if cache_params is not None:
            hidden_states_B_C = cache_params.update_conv_state(hidden_states_B_C, index, conv.size[0])
        hidden_states_B_C = causal_conv1d_fn(hidden_states_B_C, squeezed(conv), conv.parts["bias"], m.activation)
        if cache_params is not None:
            hidden_states_B_C = last_tokens(hidden_states_B_C, seq_len)

    hidden_states_B_C = masked(ops.transpose(hidden_states_B_C, 1, 2), attention_mask)
    hidden_states_B_C = ops.transpose(hidden_states_B_C, 1, 2)
    hidden_states_B_C = ops.transpose(ops.view(hidden_states_B_C, (batch_size, heads, width, seq_len)), 0, 1)
    ssm_parameters = ops.matmul(ops.unsqueeze(m.value("x_proj_weight"), 1), hidden_states_B_C)
    ssm_parameters = ops.transpose(ssm_parameters, 2, 3)
    time_step, B, C = ops.split_sizes(ssm_parameters, (m.time_step_rank, m.state_size, m.state_size))
    time_step = ops.matmul(ops.unsqueeze(m.value("dt_proj_weight"), 1), ops.transpose(time_step, 2, 3))
    time_proj_bias = ops.cast(m.value("dt_proj_bias"), "fp32")
    A = -ops.exp(ops.cast(m.value("A_log"), "fp32"))

    scan_outputs = []
    if recurrent_state is not None and yes(seq_len == 1):
        for _ in range(heads):
            scan_output = selective_state_update(
                ops.select(recurrent_state, 1),
                _last(hidden_states_B_C),
                _last(time_step),
                ops.select(A, 0),
                ops.select(ops.select(B, 0), 1),
                ops.select(ops.select(C, 0), 1),
                ops.select(m.value("D"), 0),
                _last(gate),
                ops.select(time_proj_bias, 0),
            )
            scan_outputs.append(ops.unsqueeze(scan_output, 2))
        scan_output = ops.cat(scan_outputs, 1)
    else:
        final_states = []
        for head in range(heads):
            given = (
                ops.select(hidden_states_B_C, 0, head), ops.select(time_step, 0, head), ops.select(A, 0, head),
                ops.select(B, 0, head), ops.select(C, 0, head), ops.cast(ops.select(m.value("D"), 0, head), "fp32"),
                ops.select(gate, 0, head), ops.select(time_proj_bias, 0, head),
            )  # fmt: skip
            scan_result = selective_scan(*given, return_last_state=cache_params is not None)
            del given  # arguments that nobody else holds
            scan_outputs.append(scan_result[0])
            final_states.append(scan_result[1])
        scan_output = ops.cat(scan_outputs, 1)
        if cache_params is not None:
            final_state = ops.cat([ops.unsqueeze(state, 1) for state in final_states if state is not None], 1)
            cache_params.update_recurrent_state(final_state, index)

    contextualized_states: Sym = m.out_proj(ops.cast(ops.transpose(scan_output, 1, 2), dtype))
    return contextualized_states


def _last(x: Sym) -> Sym:
    """Return one head of [N, B, I, S] at its last token: [B, I], a view. Which head changes no byte."""
    return ops.select(ops.select(x, 0), 2)


def transformer(
    m: Bound,
    hidden_states: Sym,
    original_hidden_states: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> Sym:
    """Mirror ZambaAttentionDecoderLayer.forward."""
    hidden_states = ops.cat([hidden_states, original_hidden_states], 2)
    hidden_states = m.input_layernorm(hidden_states)
    unturned = original_hidden_states, original_hidden_states  # the class has no rotary embedding
    hidden_states, _ = m.self_attn(hidden_states, unturned, attention_mask, past_key_values, index)
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    return hidden_states


def layer(
    m: Bound,
    hidden_states: Sym,
    original_hidden_states: Sym,
    attention_mask: Sym | None,
    causal_mask: Sym | None,
    beside: tuple[Bound, Checkpointing] | None = None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror ZambaHybridLayer.forward, or that of a layer without the block."""
    if beside is None:
        return mamba_layer(m, hidden_states, attention_mask, None, past_key_values, index)
    block, checkpointing = beside
    transformer_hidden_states = transformer(
        block, hidden_states, original_hidden_states, causal_mask, past_key_values, index
    )  # fmt: skip
    transformer_hidden_states = m.linear(transformer_hidden_states)
    if checkpointing.takes(0):  # the layer within checkpoints whether or not the one around it does
        kept = {"transformer_hidden_states": transformer_hidden_states, "attention_mask": attention_mask}
        hidden_states = checkpointing(m.tape, partial(mamba_layer, m.mamba_decoder, **kept), hidden_states)
        return hidden_states
    hidden_states = mamba_layer(
        m.mamba_decoder, hidden_states, attention_mask, transformer_hidden_states, past_key_values, index
    )  # fmt: skip
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror ZambaModel.forward."""
    kinds, blocks = kinds_of(m), iter(shared_blocks(m))
    inputs_embeds = m.embed_tokens(input_ids)
    hidden_states: Sym = inputs_embeds
    original_hidden_states = ops.clone(inputs_embeds)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kinds)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        None: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    for index, each in enumerate(m.layers):
        beside = None
        if kinds[index] is HYBRID:
            if checkpointing.kind == "reentrant" and not checkpointing.takes(index):
                fix = "Say --checkpointing non-reentrant, or --checkpoint-every 1."
                raise UsageError("A reentrant checkpoint inside a layer that is none goes through a graph twice.", fix)
            beside = next(blocks), checkpointing
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            original_hidden_states, causal_mask_mapping[LINEAR], causal_mask_mapping[None], beside=beside,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


causal_lm: Any = language_model(model, "model", "embed_tokens")
