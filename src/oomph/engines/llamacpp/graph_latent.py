"""The graph of DeepSeek's latent attention: one vector of a token is the key and the value of all heads.

Source: src/models/deepseek2.cpp of llama.cpp 0c1e57098, with the key and value maps absorbed into queries and outputs,
as every file converted since May 2025 has them.
"""

from __future__ import annotations

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph_attention import AttentionInput, attend, attention_input
from oomph.engines.llamacpp.graph_dense import Frame, feed_forward
from oomph.engines.llamacpp.graph_parts import Builder


def deepseek2(b: Builder) -> Graph:
    """Build DeepSeek V2, V3 and their kin."""
    x = b.inp_embd()
    inp = attention_input(b, latent=True)
    frame = Frame(norm_weights=b.setup.hparams.norm_weights)
    for il in b.layers():
        cur = _attention(b, inp, b.norm(x, "attn_norm", il), il)
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(cur, "ADD", x)
        cur = feed_forward(b, frame, b.norm(middle, "ffn_norm", il), il)
        x = ggml.like(cur, "ADD", middle)
    return b.logits(x)


def _attention(b: Builder, inp: AttentionInput, x: Tensor, il: int) -> Tensor:
    sizes, n = b.setup.hparams, b.n_tokens
    heads, rope, rank = sizes.n_head[il], sizes.rope_dim, sizes.head_v[il]
    if b.weight("attn_q_a", il) is not None:
        q = b.mm("attn_q_b", b.norm(b.mm("attn_q_a", x, il), "attn_q_a_norm", il), il)
    else:
        q = b.mm("attn_q", x, il)
    head = q.ne[0] // heads
    q = ggml.reshape(q, head, heads, n)
    both = b.mm("attn_kv_a_mqa", x, il)
    latent = ggml.view(both, rank, n, nb=(both.nb[1],))
    k_rope = b.rope(ggml.view(both, rope, 1, n, nb=(both.nb[1], both.nb[1])), il)
    latent = b.norm(latent, "attn_kv_a_norm", il)
    q_plain = ggml.view(q, head - rope, heads, n, nb=q.nb[1:3])
    q_rope = b.rope(ggml.view(q, rope, heads, n, nb=q.nb[1:3]), il)
    absorbed = ggml.mul_mat(b.the("attn_k_b", il), ggml.permute(q_plain, 0, 2, 1, 3))
    query = ggml.concat(ggml.permute(absorbed, 0, 2, 1, 3), q_rope, 0)
    value = ggml.reshape(latent, rank, 1, n)
    key = ggml.concat(value, k_rope, 0)
    return b.mm("attn_output", attend(b, inp, il, query, key, value), il)
