"""ik_llama.cpp's graphs of decoders whose layers are attention and a feed-forward layer or experts.

Source: src/graphs/*.cpp of ik_llama.cpp 8337e4cd, src/llama.cpp of 18eeb489.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oomph.engines.ik.parts import IkBuilder
from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import Graph, Tensor


@dataclass(frozen=True)
class Frame:
    """How an architecture's layers differ from Llama's.

    `scale_embd`: embeddings are scaled. `windows`: a mask of windows beside that of all tokens. `norm_weights`,
    `scale_weights`: experts' weights are divided by their sum, multiplied by a number. `ffn_norm` names the norm
    before the feed-forward layer.
    """

    scale_embd: bool = False
    windows: bool = False
    norm_weights: bool = True
    scale_weights: bool = False
    ffn_norm: str = "ffn_norm"


def decoder(b: IkBuilder, frame: Frame) -> Graph:
    """Build a decoder: embeddings, layers, logits."""
    sizes = b.setup.hparams
    x = b.inp_embd()
    x = ggml.like(x, "SCALE") if frame.scale_embd else x
    masks = b.mask(), b.mask() if frame.windows else None
    for il in b.layers():
        mask = masks[1] if masks[1] is not None and sizes.swa[il] else masks[0]
        cur = attention(b, mask, b.norm(x, "attn_norm", il), il)
        post = frame.ffn_norm != "post_attention_norm" and b.weight("post_attention_norm", il) is not None
        cur = b.norm(cur, "post_attention_norm", il) if post else cur
        if il == b.n_layer - 1:
            cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        middle = ggml.like(cur, "ADD", x)
        normed = b.norm(middle, frame.ffn_norm, il)
        x = b.add_feed_forward(middle, normed, il, frame.norm_weights, frame.scale_weights)
    return b.end(x, sizes.logit_scale)


def attention(b: IkBuilder, mask: Tensor, x: Tensor, il: int) -> Tensor:
    """Attention of one layer, output map included."""
    sizes, n = b.setup.hparams, b.n_tokens
    q, k, v = b.projections(x, il)
    q = ggml.reshape(q, sizes.head_k[il], sizes.n_head[il], n)
    k = ggml.reshape(k, sizes.head_k[il], sizes.n_head_kv[il], n)
    if b.weight("attn_q_norm", il) is not None:
        q, k = b.norm(q, "attn_q_norm", il), b.norm(k, "attn_k_norm", il)
    return b.kv(mask, il, b.rope(q, il), b.rope(k, il), v)


FRAMES: dict[str, Frame] = {
    "llama": Frame(),
    "qwen2": Frame(),
    "qwen3": Frame(),
    "qwen3moe": Frame(),
    "gemma3": Frame(scale_embd=True, windows=True),
    "glm4moe": Frame(ffn_norm="post_attention_norm", scale_weights=True),
}

GRAPHS: dict[str, Callable[[IkBuilder], Graph]] = {
    arch: lambda b, frame=frame: decoder(b, frame)  # type: ignore[misc]
    for arch, frame in FRAMES.items()
}
