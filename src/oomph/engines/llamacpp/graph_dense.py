"""Graphs of decoders whose layers are attention and a feed-forward layer or experts: one frame, and how each differs.

Source: src/models/*.cpp of llama.cpp 0c1e57098, a file for each architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oomph.engines.llamacpp import ggml
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph_attention import AttentionInput, attend, attention_input
from oomph.engines.llamacpp.graph_experts import moe
from oomph.engines.llamacpp.graph_parts import Builder


@dataclass(frozen=True)
class Frame:
    """How an architecture's layers differ from Llama's.

    `gated` is the feed-forward layer's kind (Builder.ffn). `scale_q`: queries are scaled before attention.
    `whole_norm`: queries and keys are normalised before they are split into heads. `parallel`: attention and
    feed-forward layer read the same norm, and how their outputs ("attn", "ffn") and the residual ("x") are added.
    `plain_norms`: norms have no weights. `pre_norms`: layers read norms (what they give is normalised in any case if
    the file has those). `turned_first`: heads are normalised after the rotation. `rope_swa`: only layers with a window
    rotate. `ffn_norm` names the norm before the feed-forward layer. `norm_weights`: the experts' weights are divided by
    their sum. `late_rows`: the last layer's output is an output of the graph, in some builds with the rows that give no
    logits. `rotates`: positions are put in by rotation. `swapped`: the residual is the first operand of the second sum.
    `scale_embd`: embeddings are scaled by a node of their own; `scale_rows`: token by token where a batch may bring
    embeddings of images.
    """

    gated: str = "parallel"
    scale_q: bool = False
    whole_norm: bool = False
    plain_norms: bool = False
    parallel: tuple[str, ...] = ()
    pre_norms: bool = True
    turned_first: bool = False
    rope_swa: bool = False
    ffn_norm: str = "ffn_norm"
    norm_weights: bool = True
    late_rows: bool = False
    rotates: bool = True
    swapped: bool = False
    scale_embd: bool = False
    scale_rows: bool = False


def decoder(b: Builder, frame: Frame) -> Graph:
    """Build a decoder: embeddings, layers, logits."""
    sizes = b.setup.hparams
    x = b.inp_embd()
    if b.weight("token_embd_norm") is not None:
        x = b.norm(x, "token_embd_norm", 0)
    if frame.scale_rows:
        x = b.scaled_rows(x)
    elif frame.scale_embd:
        x = ggml.like(x, "SCALE")
    if b.weight("position_embd") is not None:
        x = ggml.like(x, "ADD", ggml.get_rows(b.the("position_embd"), b.inp_pos))
    inputs = attention_input(b), attention_input(b, swa=True) if any(sizes.swa) else None
    for il in b.layers():
        inp = inputs[1] if sizes.swa[il] else inputs[0]
        assert inp is not None
        x = _parallel(b, frame, inp, x, il) if frame.parallel else _sequential(b, frame, inp, x, il)
        if il < sizes.deepstack:
            assert b.embedded is not None
            x = ggml.like(x, "ADD", ggml.view(b.embedded, b.n_embd, b.n_tokens, nb=(b.embedded.nb[1],)))
    if frame.late_rows:
        x.output = True
        x = ggml.get_rows(x, b.out_ids) if b.setup.build.late_rows else x
    return b.logits(x, sizes.logit_softcap, sizes.logit_scale)


def attention(b: Builder, frame: Frame, inp: AttentionInput, x: Tensor, il: int) -> Tensor:
    """Attention of one layer, output map included."""
    sizes, n = b.setup.hparams, b.n_tokens
    q, k, v = b.qkv(x, il, split=not frame.whole_norm)
    if frame.whole_norm:
        q, k = b.norm(q, "attn_q_norm", il), b.norm(k, "attn_k_norm", il)
        q = ggml.reshape(q, sizes.head_k[il], sizes.n_head[il], n)
        k = ggml.reshape(k, sizes.head_k[il], sizes.n_head_kv[il], n)
        v = ggml.reshape(v, sizes.head_v[il], sizes.n_head_kv[il], n)
    else:
        q, k = _head_norms(b, q, k, il) if not frame.turned_first else (q, k)
    if frame.rotates and sizes.rope[il] and (sizes.swa[il] or not frame.rope_swa or not any(sizes.swa)):
        q, k = b.rope(q, il), b.rope(k, il)
    q, k = _head_norms(b, q, k, il) if frame.turned_first else (q, k)
    q = ggml.like(q, "SCALE") if frame.scale_q else q
    return b.mm("attn_output", attend(b, inp, il, q, k, v), il)


def _head_norms(b: Builder, q: Tensor, k: Tensor, il: int) -> tuple[Tensor, Tensor]:
    q = b.norm(q, "attn_q_norm", il) if b.weight("attn_q_norm", il) is not None else q
    k = b.norm(k, "attn_k_norm", il) if b.weight("attn_k_norm", il) is not None else k
    return q, k


def feed_forward(b: Builder, frame: Frame, x: Tensor, il: int) -> Tensor:
    """The feed-forward layer or the experts of one layer, shared experts beside them."""
    if b.weight("ffn_gate_inp", il) is None:
        return b.ffn(x, il, gated=frame.gated)
    cur = moe(b, x, il, norm=frame.norm_weights)
    if b.weight("ffn_up_shexp", il) is None:
        return cur
    shared = b.ffn(x, il, "_shexp")
    if b.weight("ffn_gate_inp_shexp", il) is not None:
        shared = ggml.like(shared, "MUL", ggml.unary(b.mm("ffn_gate_inp_shexp", x, il)))
    return ggml.like(cur, "ADD", shared)


def _last(b: Builder, frame: Frame, il: int) -> bool:
    return il == b.n_layer - 1 and not (frame.late_rows and b.setup.build.late_rows)


def _sequential(b: Builder, frame: Frame, inp: AttentionInput, x: Tensor, il: int) -> Tensor:
    residual_scale = b.setup.hparams.residual_scale
    normed = b.norm(x, "attn_norm", il) if frame.pre_norms else x
    cur = attention(b, frame, inp, normed, il)
    if _last(b, frame, il):
        cur, x = ggml.get_rows(cur, b.out_ids), ggml.get_rows(x, b.out_ids)
        normed = ggml.get_rows(normed, b.out_ids)
    if b.weight("post_attention_norm", il) is not None and frame.ffn_norm != "post_attention_norm":
        cur = b.norm(cur, "post_attention_norm", il)
    cur = ggml.like(cur, "SCALE") if residual_scale else cur
    middle = ggml.like(cur, "ADD", x)
    if not frame.pre_norms:
        cur = middle
    elif b.weight(frame.ffn_norm, il) is not None or frame.plain_norms:
        cur = b.norm(middle, frame.ffn_norm, il)
    else:  # StableLM without a second norm: both layers read the first
        cur = normed
    cur = feed_forward(b, frame, cur, il)
    if b.weight("post_ffw_norm", il) is not None:
        cur = b.norm(cur, "post_ffw_norm", il, pin=b.setup.arch == "glm4")
    cur = ggml.like(cur, "SCALE") if residual_scale else cur
    return ggml.like(middle, "ADD", cur) if frame.swapped else ggml.like(cur, "ADD", middle)


def _parallel(b: Builder, frame: Frame, inp: AttentionInput, x: Tensor, il: int) -> Tensor:
    normed = b.norm(x, "attn_norm", il)
    own = b.norm(x, "attn_norm_2", il) if b.weight("attn_norm_2", il) is not None else normed
    attended = attention(b, frame, inp, own, il)
    if _last(b, frame, il):
        attended, x, normed = (ggml.get_rows(each, b.out_ids) for each in (attended, x, normed))
    if b.weight("ffn_norm", il) is not None:
        normed = b.norm(x, "ffn_norm", il)
    parts = {"attn": attended, "x": x, "ffn": feed_forward(b, frame, normed, il)}
    first, second, third = (parts[name] for name in frame.parallel)
    return ggml.like(ggml.like(first, "ADD", second), "ADD", third)


FRAMES: dict[str, Frame] = {
    "llama": Frame(),
    "qwen2": Frame(),
    "qwen3": Frame(),
    "qwen3moe": Frame(),
    "olmoe": Frame(whole_norm=True, norm_weights=False),
    "gemma": Frame(scale_q=True, scale_embd=True),
    "gemma2": Frame(scale_q=True, scale_embd=True),
    "gemma3": Frame(scale_q=True, scale_rows=True),
    "phi3": Frame(gated="halves", scale_q=True, swapped=True),
    "starcoder2": Frame(gated="none"),
    "gpt2": Frame(gated="none", rotates=False),
    "starcoder": Frame(gated="none", rotates=False),
    "bloom": Frame(gated="none", rotates=False),
    "command-r": Frame(parallel=("ffn", "x", "attn")),
    "cohere2": Frame(parallel=("ffn", "x", "attn"), rope_swa=True),
    "falcon": Frame(gated="none", parallel=("ffn", "attn", "x")),
    "phi2": Frame(gated="none", scale_q=True, parallel=("attn", "ffn", "x")),
    "stablelm": Frame(),
    "granite": Frame(),
    "granitemoe": Frame(),
    "glm4": Frame(gated="halves"),
    "chatglm": Frame(gated="halves"),
    "glm4moe": Frame(ffn_norm="post_attention_norm", norm_weights=True),
    "qwen2moe": Frame(norm_weights=False),
    "qwen2vl": Frame(),
    "qwen3vl": Frame(),
    "arcee": Frame(gated="squared"),
    "nemotron": Frame(gated="squared"),
    "apertus": Frame(gated="none"),
    "ernie4_5": Frame(),
    "ernie4_5-moe": Frame(),
    "exaone4": Frame(pre_norms=False, rope_swa=True),
    "olmo": Frame(plain_norms=True),
    "olmo2": Frame(pre_norms=False, whole_norm=True),
    "hunyuan-dense": Frame(turned_first=True),
    "minimax-m2": Frame(whole_norm=True),
    "mistral3": Frame(),
    "phimoe": Frame(scale_q=True, swapped=True),
    "seed_oss": Frame(ffn_norm="post_attention_norm"),
    "smollm3": Frame(),
    "gpt-oss": Frame(ffn_norm="post_attention_norm", norm_weights=False, late_rows=True),
}


def gptneox(b: Builder) -> Graph:
    """Build GPT-NeoX, whose config says whether both layers of a layer read the same input."""
    return decoder(b, Frame(gated="none", parallel=("ffn", "x", "attn") if b.setup.hparams.parallel else ()))


GRAPHS: dict[str, Callable[[Builder], Graph]] = {
    arch: lambda b, frame=frame: decoder(b, frame)  # type: ignore[misc]
    for arch, frame in FRAMES.items()
}
GRAPHS["gptneox"] = gptneox
