"""The graph of Llama 4: chunks of the context in most layers, no rotation in the others, experts in every few.

Source: src/models/llama4.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import F32, Graph, Tensor
from oomph.engines.llamacpp.graph_attention import AttentionInput, attend, attention_input
from oomph.engines.llamacpp.graph_experts import moe
from oomph.engines.llamacpp.graph_parts import Builder

MAVERICK = 128  # experts of the model whose queries and keys are not normalised


def llama4(b: Builder) -> Graph:
    """Build Llama 4."""
    sizes = b.setup.hparams
    x = b.inp_embd()
    scale = ggml.graph_input(F32, 1, 1, b.n_tokens, name="inp_attn_scale")
    inputs = attention_input(b), attention_input(b, swa=True) if any(sizes.swa) else None
    for il in b.layers():
        inp = inputs[1] if sizes.swa[il] else inputs[0]
        assert inp is not None
        cur = _attention(b, inp, b.norm(x, "attn_norm", il), scale, il)
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(cur, "ADD", x)
        x = ggml.like(_feed_forward(b, b.norm(middle, "ffn_norm", il), il), "ADD", middle)
    return b.logits(x)


def _attention(b: Builder, inp: AttentionInput, x: Tensor, scale: Tensor, il: int) -> Tensor:
    q, k, v = b.qkv(x, il)
    if not b.setup.hparams.rope[il]:
        q = ggml.like(q, "MUL", scale)
    else:
        q, k = b.rope(q, il), b.rope(k, il)
        if _n_expert(b) != MAVERICK:
            q, k = ggml.like(q, "RMS_NORM"), ggml.like(k, "RMS_NORM")
    return b.mm("attn_output", attend(b, inp, il, q, k, v), il)


def _n_expert(b: Builder) -> int:
    routers = (b.weight("ffn_gate_inp", il) for il in range(b.n_layer))
    return next((router.ne[1] for router in routers if router is not None), 0)


def _feed_forward(b: Builder, x: Tensor, il: int) -> Tensor:
    if b.weight("ffn_gate_inp", il) is None:
        return b.ffn(x, il)
    routed = moe(b, x, il, norm=False, weighed_before=True)
    return ggml.like(routed, "ADD", b.ffn(x, il, "_shexp"))
