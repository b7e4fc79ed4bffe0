"""ModernBertForMaskedLM and ModernBertForSequenceClassification: forward with its local variables.

Source: transformers 5.23, models/modernbert/modeling_modernbert.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.families.layer_types import FULL, SLIDING
from oomph.job_words import FLASH_ATTN
from oomph.ops.flash_attn import FlashCall
from oomph.ops.rotary_kinds import rotate
from oomph.programs.bert import sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.classify import loss_of
from oomph.programs.frame import call
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

__all__ = ["backbone", "buffers", "causal_lm", "sliding_windows"]
Tables = tuple[Sym, Sym]


def base(m: Bound) -> Bound:
    """Return the model below the head, or the one without a head."""
    found: Bound = m if "embeddings" in m.parts else m.model
    return found


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq of each kind of layer."""
    layers = base(m)["layers"]
    size = next(iter(layers)).attn.head_dim
    kinds = {_kind(layer) for layer in layers}
    return [each for _ in kinds for each in ops.rotary_buffers(m.tape, size)]


def _kind(layer: Bound) -> str:
    return SLIDING if layer.attn.slides else FULL


def attention(
    m: Bound, hidden_states: Sym, position_embeddings: Tables, attention_mask: Sym | None
) -> tuple[Sym, Sym | None]:
    """Mirror ModernBertAttention.forward."""
    batch, length, hidden = hidden_states.shape
    qkv = m.Wqkv(hidden_states)
    qkv = ops.view(qkv, (batch, length, 3, m.num_heads, m.head_dim))
    query_states, key_states, value_states = ops.unbind(qkv, 2, 3)
    query_states = ops.transpose(query_states, 1, 2)
    key_states = ops.transpose(key_states, 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    cos, sin = position_embeddings
    query_states, key_states = rotate(m.rotary, query_states, key_states, cos, sin)
    attn_output, attn_weights = attended(m, query_states, key_states, value_states, attention_mask)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.Wo(attn_output) if m.resid_dropout is None else m.resid_dropout(m.Wo(attn_output))
    return attn_output, attn_weights


def attended(m: Bound, query: Sym, key: Sym, value: Sym, mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Run the job's kernel, every token seeing all that the mask allows; flash-attn is told the window itself."""
    rate = m.dropout
    if m.tape.kernel in FLASH_ATTN:
        window = m.slides and yes(key.shape[2] > m.window + 1)
        call = FlashCall(rate if m.tape.dropout else 0.0, causal=False, window=window, positions=False)
        return ops.flash_attention_forward(query, key, value, mask, call), None
    if query.tape.kernel != "eager":
        return ops.sdpa_attention(query, key, value, mask, rate, causal=False), None
    return ops.eager_attention(query, key, value, mask, rate)


def mlp(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror ModernBertMLP.forward."""
    first, last = m.names
    made, gate = ops.split(m[first](hidden_states), m.ffn_size, 2)
    output: Sym = m[last](m["dropout"](ops.activate(m.activation, made) * gate))
    return output


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror ModernBertEncoderLayer.forward; the first layer has no norm."""
    normed = hidden_states if m.parts["attn_norm"] is None else m.attn_norm(hidden_states)
    attn_output, _ = attention(m.attn, normed, position_embeddings, attention_mask)
    del normed
    hidden_states = hidden_states + attn_output
    hidden_states = hidden_states + feed_forward(m, hidden_states)
    return hidden_states


def feed_forward(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror self.mlp(self.mlp_norm(hidden_states)): a module's call holds its arguments to its end."""
    normed = m.mlp_norm(hidden_states)
    output = mlp(m.mlp, normed)
    return output


def model(
    m: Bound, input_ids: Sym, checkpointing: Checkpointing, attention_mask: Sym | None, position_ids: Sym | None
) -> Sym:
    """Mirror ModernBertModel.forward. Tables come in the order of a set, as in programs/llama.py."""
    tape, layers = m.tape, m["layers"]
    if position_ids is None:
        position_ids = ops.unsqueeze(tape.empty((input_ids.shape[1],), "int64", op="arange"), 0)
    hidden_states: Sym = m.embeddings.drop(m.embeddings.norm(m.embeddings.tok_embeddings(input_ids)))
    first = next(iter(layers)).attn
    mask_kwargs = {"inputs_embeds": hidden_states, "attention_mask": attention_mask}  # noqa: F841
    attention_mask_mapping = {
        FULL: ops.bidirectional_mask(hidden_states, attention_mask),
        SLIDING: ops.bidirectional_mask(hidden_states, attention_mask, first.window),
    }
    position_embeddings = {
        kind: ops.rotary_tables(hidden_states, position_ids, first.head_dim)
        for kind in list({_kind(each) for each in layers})
    }
    for index, each in enumerate(layers):
        mask, tables = attention_mask_mapping[_kind(each)], position_embeddings[_kind(each)]
        options: dict[str, Any] = {"attention_mask": mask, "position_embeddings": tables}
        del mask, tables
        hidden_states = call(each, index, layer, checkpointing, None, hidden_states, **options)
        del options
    tape.end_layers()
    hidden_states = m.final_norm(hidden_states)
    return hidden_states


def backbone(
    m: Bound,
    input_ids: Sym,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    use_cache: bool,
    checkpointing: Checkpointing,
) -> tuple[Sym, None]:
    """Mirror the forward of the class without a head; there is no cache."""
    return model(m, input_ids, checkpointing, attention_mask, position_ids), None


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    **options: Any,
) -> tuple[Sym | None, Sym, Cache | None]:
    """Mirror the forward of the class whose head the model has: loss and logits; there is no cache."""
    outputs = (model(m.model, input_ids, checkpointing, attention_mask, position_ids),)
    last_hidden_state: Sym = outputs[0]
    m.tape.scope = "head"
    if "classifier" not in m.parts:
        weight = m.decoder.parts["weight"]
        table = m.model.embeddings.tok_embeddings.weight if weight is None else weight
        predicted = m["head"](last_hidden_state)
        logits = ops.linear(predicted, table, m.decoder.parts["bias"])
        del predicted
        return None if labels is None else loss_of(ops.cast(logits, "fp32"), labels), logits, None
    last_hidden_state = pooled(last_hidden_state, attention_mask, m["head"].pooling)
    pooled_output = m["head"](last_hidden_state)
    pooled_output = m.drop(pooled_output)
    logits = m.classifier(pooled_output)
    return loss_of(logits, labels), logits, None


def pooled(last_hidden_state: Sym, attention_mask: Sym | None, pooling: str) -> Sym:
    """Mirror what ModernBertForSequenceClassification takes of the states [B, S, H]: the first, or a mean: [B, H]."""
    if pooling == "cls":
        return ops.select(last_hidden_state, 1)
    tape, (batch, length) = last_hidden_state.tape, last_hidden_state.shape[:2]
    if attention_mask is None:
        attention_mask = tape.empty((batch, length), "bool", op="ones")
    summed = ops.sum_over(last_hidden_state * ops.unsqueeze(attention_mask, 2), 1)
    return ops.divide(summed, tape.empty((batch, 1), "int64", op="sum"))
