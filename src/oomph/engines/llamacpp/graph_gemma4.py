"""The graph of Gemma 4: windows with heads of their own size, experts beside a dense layer, embeddings of each layer.

Source: src/models/gemma4.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import I32, Graph, Tensor
from oomph.engines.llamacpp.graph_attention import AttentionInput, attend, attention_input
from oomph.engines.llamacpp.graph_experts import moe
from oomph.engines.llamacpp.graph_parts import Builder


def gemma4(b: Builder) -> Graph:
    """Build Gemma 4."""
    sizes = b.setup.hparams
    x = b.scaled_rows(b.inp_embd())
    full, windows = attention_input(b), attention_input(b, swa=True)
    own = _embeddings_of_layers(b, x) if b.weight("per_layer_token_embd") is not None else None
    first_shared = next((il for il in range(b.n_layer) if b.weight("attn_k", il) is None), b.n_layer)
    for il in b.layers():
        last = il == b.n_layer - 1 and not b.setup.build.late_rows
        inp = windows if sizes.swa[il] else full
        cur = _attention(b, inp, b.norm(x, "attn_norm", il), il, first_shared)
        if last:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(b.norm(cur, "post_attention_norm", il), "ADD", x)
        cur = b.norm(_feed_forward(b, middle, il), "post_ffw_norm", il, pin=False)
        x = ggml.like(cur, "ADD", middle)
        if own is not None:
            part = ggml.view(own, own.ne[0], own.ne[1], nb=(own.nb[1],))
            part = ggml.get_rows(part, b.out_ids) if last else part
            gate = ggml.like(ggml.unary(b.mm("inp_gate", x, il)), "MUL", part)
            x = ggml.like(x, "ADD", b.norm(b.mm("proj", gate, il), "post_norm", il))
        scale = b.weight("layer_output_scale", il)
        x = x if scale is None else ggml.like(x, "MUL", scale)
    return b.logits(x, softcap=sizes.logit_softcap, rows=b.setup.build.late_rows)


def _attention(b: Builder, inp: AttentionInput, x: Tensor, il: int, first_shared: int) -> Tensor:
    sizes, n = b.setup.hparams, b.n_tokens
    dim, heads, kv_heads = sizes.head_k[il], sizes.n_head[il], sizes.n_head_kv[il]
    scaled = not sizes.swa[il]
    q = b.rope(b.norm(ggml.reshape(b.mm("attn_q", x, il), dim, heads, n), "attn_q_norm", il), il, scaled)
    if il >= first_shared:  # the keys and values of the last layer of its kind that has some
        cur = attend(b, inp, il, q, None, None, cache_of=first_shared - (2 if sizes.swa[il] else 1))
        return b.mm("attn_output", cur, il)
    k = b.mm("attn_k", x, il)
    v = b.mm("attn_v", x, il) if b.weight("attn_v", il) is not None else k
    k, v = ggml.reshape(k, dim, kv_heads, n), ggml.reshape(v, dim, kv_heads, n)
    k = b.rope(b.norm(k, "attn_k_norm", il), il, scaled)
    return b.mm("attn_output", attend(b, inp, il, q, k, ggml.like(v, "RMS_NORM")), il)


def _feed_forward(b: Builder, x: Tensor, il: int) -> Tensor:
    dense = b.ffn(b.norm(x, "ffn_norm", il), il)
    if b.weight("ffn_gate_inp", il) is None:
        return dense
    dense = b.norm(dense, "post_ffw_norm_1", il)
    routed = b.norm(x, "pre_ffw_norm_2", il)
    scores = ggml.like(ggml.like(ggml.like(x, "RMS_NORM"), "SCALE"), "MUL", b.the("ffn_gate_inp", il, "scale"))
    routed = moe(b, routed, il, logits=b.mm("ffn_gate_inp", scores, il), norm=True)
    return ggml.like(dense, "ADD", b.norm(routed, "post_ffw_norm_2", il))


def _embeddings_of_layers(b: Builder, x: Tensor) -> Tensor:
    """A second embedding of the tokens for every layer, and a map of the first: [width, tokens, layers]."""
    table, n = b.the("per_layer_token_embd"), b.n_tokens
    width = b.the("inp_gate", 0).ne[1]
    layers = table.ne[0] // width
    rows = ggml.get_rows(table, ggml.graph_input(I32, n, name="inp_per_layer_tokens"))
    found = b.graph.expand(ggml.like(ggml.reshape(rows, width, layers, n), "SCALE"))
    mapped = ggml.reshape(ggml.like(b.mm("per_layer_model_proj", x), "SCALE"), width, layers, n)
    mapped = b.norm(mapped, "per_layer_proj_norm")
    both = ggml.like(ggml.like(mapped, "ADD", found), "SCALE")
    return ggml.cont(ggml.permute(both, 0, 2, 1, 3))
