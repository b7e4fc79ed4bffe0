"""DeepseekV4ForCausalLM.forward with its local variables: several residual streams, mixed around each block.

Shape letters: B batch, S sequence, M streams, H hidden. Source: transformers 5.23,
models/deepseek_v4/modeling_deepseek_v4.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.compressed_attention import COMPRESS, MAIN, unweighted_norm
from oomph.programs.compressed_cache import Compressed
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

EPSILON = 1e-6


def buffers(m: Bound) -> list[Sym]:
    """Return frequencies of two kinds, each kept twice, of the model and of what folds tokens; tables of experts."""
    tape, layers = m.tape, list(m.model.layers)
    folding = [layer.self_attn.compressor for layer in layers if layer.self_attn.compressor is not None]
    places = [*folding, *(one.indexer for one in folding if one.indexer is not None), m.model]
    found = []
    for _ in places:
        for _ in (MAIN, COMPRESS):
            found += ops.rotary_buffers(tape, layers[0].self_attn.rope_dim)
    for layer in layers:
        router = layer.mlp[layer.mlp.router_name]
        if "tid2eid" in router.parts:
            router.parts["tid2eid"] = tape.empty((router.vocab_size, layer.mlp.top_k), "int64", op="tid2eid")
            found.append(router.tid2eid)
    return found


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: a window, and entries beyond it where there is a compressor."""
    return kept_by(m.model)


def kept_by(m: Bound) -> list[Size | None]:
    """Return the same of the model itself."""
    return [_kept(layer.self_attn) for layer in m.layers]


def _kept(m: Bound) -> Size | None:
    if m.compressor is None:
        window: Size = m.sliding_window
        return window
    return Compressed(m.sliding_window, m.compressor.rate, m.compressor.indexer is not None)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: an indexer's scores pick entries, which hands none back."""
    return [one for one in parameters if ".indexer." not in one.made_for]


def hyper_connection(m: Bound, hidden_streams: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror DeepseekV4HyperConnection.forward: weights [B, S, M] and [B, S, M, M], and one stream of all [B, S, H]."""
    batch_size, seq_len, hc, hidden = hidden_streams.shape
    flattened = ops.cast(ops.view(hidden_streams, (batch_size, seq_len, hc * hidden)), "fp32")
    flattened = unweighted_norm(flattened)
    flattened = ops.linear(flattened, ops.cast(m.value("fn"), "fp32"))
    pre_w, post_w, comb_w = ops.split_sizes(flattened, (hc, hc, hc * hc))
    pre_b, post_b, comb_b = ops.split_sizes(m.value("base"), (hc, hc, hc * hc))
    pre_scale, post_scale, comb_scale = ops.unbind(m.value("scale"), 0, 3)
    comb_w = ops.view(comb_w, (batch_size, seq_len, hc, hc))
    comb_b = ops.view(comb_b, (hc, hc))
    pre = ops.sigmoid(pre_w * pre_scale + pre_b) + EPSILON
    post = 2 * ops.sigmoid(post_w * post_scale + post_b)
    comb = ops.softmax(comb_w * comb_scale + comb_b) + EPSILON
    comb = ops.divide(comb, ops.sum_over(comb, -2, keepdim=True) + EPSILON)
    for _ in range(m.iterations - 1):
        comb = ops.divide(comb, ops.sum_over(comb, -1, keepdim=True) + EPSILON)
        comb = ops.divide(comb, ops.sum_over(comb, -2, keepdim=True) + EPSILON)
    collapsed = ops.cast(ops.sum_over(ops.unsqueeze(pre, 3) * hidden_streams, 2), hidden_streams.dtype)
    return post, comb, collapsed


def hyper_head(m: Bound, x: Sym) -> Sym:
    """Mirror DeepseekV4HyperHead.forward: one stream of all."""
    batch_size, seq_len, hc, hidden = x.shape
    flat = unweighted_norm(ops.cast(ops.view(x, (batch_size, seq_len, hc * hidden)), "fp32"))
    mixes = ops.linear(flat, ops.cast(m.value("hc_fn"), "fp32"))
    pre = ops.sigmoid(mixes * ops.cast(m.value("hc_scale"), "fp32") + ops.cast(m.value("hc_base"), "fp32")) + EPSILON
    return ops.cast(ops.sum_over(ops.unsqueeze(pre, 3) * x, 2), x.dtype)


def _mixed(post: Sym, comb: Sym, output: Sym, hidden_states: Sym, dtype: str) -> Sym:
    """Return what a block made, in all streams, and the streams mixed."""
    return ops.unsqueeze(ops.cast(post, dtype), 3) * ops.unsqueeze(output, 2) + ops.matmul(
        ops.transpose(ops.cast(comb, dtype), 2, 3), hidden_states
    )


def block(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: dict[str, Tables],
    position_ids: Sym,
    attention_mask: Sym | None,
    input_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror DeepseekV4DecoderLayer.forward; the attention's weights are held to the end."""
    dtype = hidden_states.dtype
    post, comb, collapsed = m.attn_hc(hidden_states)
    attn_output, _weights = m.self_attn(
        m.input_layernorm(collapsed), position_embeddings, position_ids, attention_mask, past_key_values, index
    )
    hidden_states = _mixed(post, comb, attn_output, hidden_states, dtype)
    post, comb, collapsed = m.ffn_hc(hidden_states)
    mlp_output = m.mlp(m.post_attention_layernorm(collapsed), input_ids)
    return _mixed(post, comb, mlp_output, hidden_states, dtype)


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
    """Mirror DeepseekV4Model.forward."""
    m.tape.kernel = "eager"
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, kept_by(m))
    inputs_embeds = m.embed_tokens(input_ids)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    first = next(iter(m.layers)).self_attn
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, first.sliding_window, packed)
    batch, length, hidden = inputs_embeds.shape
    hidden_states = ops.contiguous(
        ops.expand(ops.unsqueeze(inputs_embeds, 2), (batch, length, m.hc_head.streams, hidden))
    )
    position_embeddings = {
        MAIN: ops.half_tables(inputs_embeds, position_ids, first.rope_dim),
        COMPRESS: ops.half_tables(inputs_embeds, position_ids, first.rope_dim),
    }
    for index, layer in enumerate(m.layers):
        hidden_states = call(
            layer, index, block, checkpointing, past_key_values, hidden_states,
            position_embeddings=position_embeddings, position_ids=position_ids, attention_mask=causal_mask,
            input_ids=input_ids,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm(m.hc_head(hidden_states))
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
