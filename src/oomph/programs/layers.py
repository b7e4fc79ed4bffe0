"""Forward passes of decoder layers with their local variables: what stands before and after attention and MLP.

Source: transformers 5.23, models/<type>/modeling_<type>.py, FooDecoderLayer.forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oomph import ops
from oomph.programs.cache import Cache
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.programs.frames import Frame

Tables = tuple[Sym, Sym]
FEED_FORWARD = ("mlp", "block_sparse_moe", "feed_forward")


def residual(
    m: Bound,
    frame: Frame,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror LlamaDecoderLayer.forward, and those with other norms, dropout or a factor before the sums."""
    before_attention, after_attention, before_mlp, after_mlp = (m.parts.get(name) for name in frame.norms)
    residual = hidden_states
    if before_attention is not None:
        hidden_states = before_attention(hidden_states)
    hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    if after_attention is not None:
        hidden_states = after_attention(hidden_states)
    hidden_states = residual + _weighted(m, frame, hidden_states, "resid_attn_dropout")

    residual = hidden_states
    if before_mlp is not None:
        hidden_states = before_mlp(hidden_states)
    hidden_states = feed_forward(m)(hidden_states)
    if isinstance(hidden_states, tuple):  # also the router's scores
        hidden_states, _ = hidden_states
    if after_mlp is not None:
        hidden_states = after_mlp(hidden_states)
    hidden_states = residual + _weighted(m, frame, hidden_states, "resid_mlp_dropout")
    return hidden_states


def feed_forward(m: Bound) -> Bound:
    """Return the MLP or the mixture of a layer under the name it has in checkpoints."""
    found: Bound = next(m[name] for name in FEED_FORWARD if name in m.parts)
    return found


def _weighted(m: Bound, frame: Frame, hidden_states: Sym, dropout: str) -> Sym:
    """Return what is added to the residual: times a number (Granite), or partly dropped (Phi-3)."""
    if frame.scaled:
        return hidden_states * 1.0
    if dropout in m.parts:
        dropped: Sym = m[dropout](hidden_states)
        return dropped
    return hidden_states


def parallel(
    m: Bound,
    frame: Frame,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror CohereDecoderLayer.forward: attention and MLP side by side behind one norm."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states_attention, _ = m.self_attn(
        hidden_states, position_embeddings, attention_mask, past_key_values, index
    )  # fmt: skip
    hidden_states_mlp = m.mlp(hidden_states)
    hidden_states = residual + hidden_states_attention + hidden_states_mlp
    return hidden_states


def stablelm(
    m: Bound,
    frame: Frame,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror StableLmDecoderLayer.forward: side by side where there is no second norm."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    self_attn_output, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    if m.post_attention_layernorm is None:
        mlp_output = m.mlp(hidden_states)
        mlp_output = m.dropout(mlp_output)
        hidden_states = residual + self_attn_output + mlp_output
    else:
        residual = residual + self_attn_output
        mlp_output = m.mlp(m.post_attention_layernorm(residual))
        mlp_output = m.dropout(mlp_output)
        hidden_states = residual + mlp_output
    return hidden_states


def granite_shared(
    m: Bound,
    frame: Frame,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror GraniteMoeSharedDecoderLayer.forward: the mixture's output is held beside the shared MLP's."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states * 1.0
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    moe_hidden_states = m.block_sparse_moe(hidden_states)
    hidden_states = moe_hidden_states if m.shared_mlp is None else moe_hidden_states + m.shared_mlp(hidden_states)
    hidden_states = residual + hidden_states * 1.0
    return hidden_states


def llama4(
    m: Bound,
    frame: Frame,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Llama4TextDecoderLayer.forward: what a mixture returns beside its output is held to the end."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    attention_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + attention_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    if isinstance(hidden_states, tuple):
        hidden_states, _ = hidden_states
    hidden_states = residual + ops.view(hidden_states, residual.shape)
    return hidden_states
