"""OpenAIGPTLMHeadModel.forward of GPT (1), with its local variables: norms after the sums, a triangle in each layer.

The class keeps no cache and checkpoints no layers. Source: transformers 5.23, models/openai/modeling_openai.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.cache import Cache
from oomph.programs.frame import call, check_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return each layer's triangle of ones, in the weights' dtype, and the positions."""
    tape, rows = m.tape, m.transformer.positions_embed.rows
    found = []
    for block in m.transformer.h:
        made = block.attn.parts["bias"] = tape.empty((1, 1, rows, rows), tape.loaded, op="bias")
        found.append(made)
    return [*found, tape.empty((rows,), "int64", op="position_ids")]


def heads(m: Bound, x: Sym, order: tuple[int, ...]) -> Sym:
    """Mirror Attention.split_heads: [B, S, H] with heads in front, keys turned on their side."""
    return ops.permute(ops.view(x, (*x.shape[:2], m.num_heads, m.head_dim)), order)


def scored(m: Bound, q: Sym, k: Sym, v: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror Attention._attn."""
    w = ops.matmul(q, k)
    w = w / 1.0
    length = w.shape[-1]
    b = ops.slice_axis(ops.slice_axis(m["bias"], 2, 0, length), 3, 0, length)
    w = w * b + ops.unary(ops.unary(b, "rsub"), "mul")
    if attention_mask is not None:
        w = w + attention_mask
    w = ops.softmax(w)
    w = ops.dropout(w, m.dropout)
    return ops.matmul(w, v)


def attention(m: Bound, x: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror Attention.forward."""
    batch, length, hidden = x.shape
    x = m.c_attn(x)
    query, key, value = ops.split(x, hidden, 3)
    query = heads(m, query, (0, 2, 1, 3))
    key = heads(m, key, (0, 2, 3, 1))
    value = heads(m, value, (0, 2, 1, 3))
    attn_outputs = [scored(m, query, key, value, attention_mask)]  # a list of the class's, held to the end
    a = attn_outputs[0]
    a = ops.view(ops.contiguous(ops.permute(a, (0, 2, 1, 3))), (batch, length, hidden))
    a = m.c_proj(a)
    a = m.resid_dropout(a)
    dropped: Sym = a
    return dropped


def mlp(m: Bound, x: Sym) -> Sym:
    """Mirror MLP.forward, whose locals hold what the activation made."""
    h = ops.activate(m.activation, m.c_fc(x))
    h2 = m.c_proj(h)
    dropped: Sym = m["dropout"](h2)
    return dropped


def block(m: Bound, x: Sym, attention_mask: Sym | None, past_key_values: Cache | None = None, index: int = 0) -> Sym:
    """Mirror Block.forward."""
    a = attention(m.attn, x, attention_mask)
    n = summed(m.ln_1, [x + a])
    made = mlp(m.mlp, n)
    h = summed(m.ln_2, [n + made])
    return h


def summed(norm: Bound, made: list[Sym]) -> Sym:
    """Return the norm of a sum, which dies with the call."""
    normed: Sym = norm(made.pop())
    return normed


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror OpenAIGPTModel.forward."""
    if checkpointing.kind != "none":
        raise UnsupportedError("transformers' class of GPT supports no gradient checkpointing.", "Leave it out.")
    if not m.tape.training and (use_cache or past_key_values is not None):
        raise UnsupportedError("transformers' class of GPT keeps no cache.", "Say --cache none.")
    m.tape.kernel = "eager"
    check_positions(m.positions_embed, input_ids.shape[1])
    if attention_mask is not None:
        attention_mask = ops.unsqueeze(ops.unsqueeze(attention_mask, 1), 2)
        attention_mask = ops.cast(attention_mask, m.tokens_embed.weight.dtype)
        attention_mask = ops.unary(ops.unary(attention_mask, "rsub"), "mul")
    inputs_embeds = m.tokens_embed(input_ids)
    if position_ids is None:  # they lie in the buffer
        position_embeds = ops.embedding_at(m.positions_embed.weight, (1, input_ids.shape[1]))
    else:
        position_embeds = m.positions_embed(position_ids)
    hidden_states: Sym = (inputs_embeds + position_embeds) + 0.0
    hidden_states = m.drop(hidden_states)
    for index, each in enumerate(m.h):
        hidden_states = call(each, index, block, checkpointing, None, hidden_states, attention_mask)
    m.tape.end_layers()
    return hidden_states, None


causal_lm = language_model(model, "transformer", "tokens_embed")
