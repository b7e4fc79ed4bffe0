"""LitGPT's own model code in its releases: one map for query, key and value, norms in fp32, rotary tables that stay.

Shape letters: B batch, T tokens, N query heads, K key/value heads, hs head size. Source: litgpt 0.5.13, 0.4.6 and of
April 2024, model.py; lit-gpt 0cc02afa (27 October 2023), lit_gpt/model.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from oomph.blocks.base import Block, Parts
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

EPSILON = 1e-5  # of norms; no byte depends on it


@dataclass(frozen=True)
class Release:
    """What differs between releases of the model code.

    `norm`: whether RMSNorm, in fp32, is cast back before it is scaled, or scaled before, by a 16-bit weight ("narrow")
    or its fp32 copy. `groups`: the fused map lays out query, key and value of each group side by side, so that taking
    them apart copies. `sums`: which of attention and MLP is computed or added first. `indices`: those of adapted
    channels are made "anew" in each pass, "kept", or "copied" in each pass. `keeps_normed`: what the first norm made
    lives as long as a parallel layer's forward pass. `keeps_loss`: the loop's variable for the loss lives through the
    next forward pass. `count`: the loss is divided by the number of tokens, which is "compared" with 1, or the
    "largest" of both is taken, or it is a mean. `capped_chunks`: logits that come in chunks are bounded too.
    `stable_embedding`: a quantised model's embedding is replaced by bitsandbytes' StableEmbedding.
    `keeps_4bit_inputs`: it wants bitsandbytes 0.42 or 0.41, which keep them as long as the graph.
    """

    norm: Literal["narrow scaled, cast", "cast, scaled", "scaled, cast"] = "scaled, cast"
    groups: bool = False
    sums: Literal["mlp first", "attention first"] = "attention first"
    indices: Literal["anew", "kept", "copied"] = "copied"
    keeps_normed: bool = False
    keeps_loss: bool = False
    count: Literal["none", "compared", "largest"] = "largest"
    capped_chunks: bool = True
    stable_embedding: bool = True
    keeps_4bit_inputs: bool = False


@dataclass(frozen=True)
class RMSNorm(Block):
    """RMSNorm; `plus_one`: the scale is 1 + weight, as Gemma's."""

    size: int
    release: Release
    plus_one: bool = False
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """The scale."""
        return {"weight": Tensor((self.size,), "norm")}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror RMSNorm.forward."""
        from oomph import ops

        dtype = x.dtype
        scale: Sym = m.weight
        x = ops.cast(x, "fp32")
        norm_x = ops.mean(x * x)
        x_normed = x * ops.rsqrt(norm_x + EPSILON)
        if m.release.norm == "cast, scaled":
            x_normed = ops.cast(x_normed, dtype)
            return x_normed * (1.0 + scale) if m.plus_one else x_normed * scale
        if m.release.norm == "narrow scaled, cast":
            return ops.cast(scale * x_normed, dtype)
        weight = 1.0 + scale if m.plus_one else scale
        return ops.cast(x_normed * ops.cast(weight, "fp32"), dtype)


@dataclass(frozen=True)
class CausalSelfAttention(Block):
    """Queries, keys and values of one map `qkv`, the first `rotary_dim` channels of a head turned, and a map `proj`.

    `norm` is that of queries and keys, if any; `window` how many tokens a query sees, None all; `softcap`: scores are
    bounded by a tanh, so they are written out. `prompt`: that many vectors which all tokens attend to as well, through
    a gate (LLaMA-Adapter), 0 for none.
    """

    qkv: Block
    proj: Block
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    release: Release
    norm: Block | None = None
    window: int | None = None
    softcap: bool = False
    prompt: int = 0
    hidden_size: int = 0
    kind: str = "attention"

    @property
    def parts(self) -> Parts:
        """Both maps, norms, and what a prompt takes: its vectors, of which no gradient is asked, and the gate."""
        gate = {"gating_factor": Tensor((1, 1, self.num_heads, 1), "param")} if self.prompt else {}
        table = {"adapter_wte": Prompt(self.prompt, self.hidden_size)} if self.prompt else {}
        return {**gate, "qkv": self.qkv, "proj": self.proj, "norm_q": self.norm, "norm_k": self.norm, **table}

    @staticmethod
    def program(m: Bound, x: Sym, cos: Sym, sin: Sym, mask: Sym | None = None) -> Sym:
        """Mirror CausalSelfAttention.forward: x [B, T, H], cos and sin [T, rotary_dim]; masks are made within."""
        from oomph import ops
        from oomph.tape.sizes import yes

        batch, length = x.shape[:2]
        heads, groups, size = m.num_heads, m.num_kv_heads, m.head_dim
        qkv = m.qkv(x)
        if m.release.groups:
            q_per_kv = heads // groups
            qkv = ops.view(qkv, (batch, length, groups, q_per_kv + 2, size))
            qkv = ops.transpose(ops.transpose(qkv, 1, 2), 2, 3)
            q, k, v = ops.split_axis(qkv, 2, (q_per_kv, 1, 1))
            if not yes(groups == heads):
                k = ops.expand(k, (batch, groups, q_per_kv, length, size))
                v = ops.expand(v, (batch, groups, q_per_kv, length, size))
            q = ops.view(q, (batch, heads, length, size))
            k = ops.view(k, (batch, heads, length, size))
            v = ops.view(v, (batch, heads, length, size))
        else:
            q, k, v = ops.split_sizes(qkv, (heads * size, groups * size, groups * size))
            q = ops.view(q, (batch, length, heads, size))
            k = ops.view(k, (batch, length, groups, size))
            v = ops.view(v, (batch, length, groups, size))
            q = ops.transpose(q, 1, 2)
            k = ops.transpose(k, 1, 2)
            v = ops.transpose(v, 1, 2)
        if m.norm is not None:
            q = m.norm_q(q)
            k = m.norm_k(k)
        turned = m.rotary_dim
        q_roped = apply_rope(ops.part(q, 0, turned), cos, sin)
        k_roped = apply_rope(ops.part(k, 0, turned), cos, sin)
        q = ops.joined((q_roped, ops.part(q, turned, size)))
        k = ops.joined((k_roped, ops.part(k, turned, size)))
        if not m.release.groups:
            k = ops.repeat_heads(k, heads // groups)
            v = ops.repeat_heads(v, heads // groups)
        if m.window is not None:
            mask, _bias = _window_masks(m, q)
        y = (_with_prompt if m.prompt else attend)(m, q, k, v, mask)
        y = ops.view(y, (batch, length, heads * size))
        projected: Sym = m.proj(y)
        return projected


def apply_rope(x: Sym, cos: Sym, sin: Sym) -> Sym:
    """Mirror apply_rope on x [B, N, T, R]: the tables are in fp32, so the products are, and the sum is cast back."""
    from oomph import ops

    half = x.shape[-1] // 2
    x1 = ops.slice_axis(x, -1, 0, half)
    x2 = ops.slice_axis(x, -1, half, x.shape[-1])
    rotated = ops.joined((-x2, x1))
    cos, sin = (ops.view(one, (1, 1, *one.shape)) for one in (cos, sin))
    roped = (x * cos) + (rotated * sin)
    return ops.cast(roped, x.dtype)


def attend(m: Bound, q: Sym, k: Sym, v: Sym, mask: Sym | None) -> Sym:
    """Mirror scaled_dot_product_attention: [B, N, T, hs] to [B, T, N, hs]."""
    from oomph import ops
    from oomph.ops.kernel_choice import Call
    from oomph.ops.sdpa import scaled_dot_product_attention

    if m.softcap:
        scores = ops.matmul(q, ops.transpose(k, 2, 3)) * 1.0
        scores = ops.tanh(scores / 1.0) * 1.0
        if mask is None:
            mask = _triangle(q)
        scores = scores + mask
        scores = ops.cast(ops.softmax_in_fp32(scores), q.dtype)
        y = ops.matmul(scores, v)
    else:
        y = scaled_dot_product_attention(q, k, v, Call(mask, is_causal=mask is None))
    return ops.transpose(y, 1, 2)


def _triangle(q: Sym) -> Sym:
    """Mirror torch.ones(T, T).triu(diagonal=1), minus infinity where there are ones: [1, 1, T, T] in q's dtype."""
    tape, length = q.tape, q.shape[2]
    ones = tape.empty((1, 1, length, length), q.dtype, op="ones")
    mask = tape.empty((1, 1, length, length), q.dtype, op="triu")
    del ones
    chosen = tape.empty(mask.shape, "bool", op="_to_copy")
    del chosen
    return mask


def _window_masks(m: Bound, q: Sym) -> tuple[Sym, Sym]:
    """Mirror the masks of a window: the causal one with the window's, which is added to it or takes its place."""
    tape = q.tape
    mask = _triangle(q)
    if not m.release.groups:
        own = tape.empty(mask.shape, mask.dtype, op="full")
        return own, own
    ones = tape.empty(mask.shape, mask.dtype, op="ones_like")
    sliding_window_bias = tape.empty(mask.shape, mask.dtype, op="tril")
    del ones
    chosen = tape.empty(mask.shape, "bool", op="_to_copy")
    del chosen
    return mask, sliding_window_bias


@dataclass(frozen=True)
class Prompt(Block):
    """The vectors of a prompt. Their keys and values are made once, by the validation before training and without
    gradients, and kept, so the vectors get none.
    """

    rows: int
    size: int

    @property
    def parts(self) -> Parts:
        """The table."""
        return {"weight": Tensor((self.rows, self.size), "embedding")}


def _with_prompt(m: Bound, q: Sym, k: Sym, v: Sym, mask: Sym | None) -> Sym:
    """Mirror the adapter's scaled_dot_product_attention: the kept keys and values, a mask of ones, and the gate."""
    y = attend(m, q, k, v, mask)
    ak, av = m.parts["adapter_kv_cache"]
    amask = q.tape.empty((1, 1, q.shape[2], m.prompt), "bool", op="ones")
    ay = attend(m, q, ak, av, amask)
    return y + m.gating_factor * ay  # type: ignore[no-any-return]


@dataclass(frozen=True)
class GptNeoxMLP(Block):
    """proj(gelu(fc(x)))."""

    fc: Block
    proj: Block
    kind: str = "mlp"

    @property
    def parts(self) -> Parts:
        """Both maps."""
        return {"fc": self.fc, "proj": self.proj}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror GptNeoxMLP.forward."""
        from oomph import ops

        x = m.fc(x)
        x = ops.activate("gelu", x)
        projected: Sym = m.proj(x)
        return projected


@dataclass(frozen=True)
class LLaMAMLP(Block):
    """proj(act(fc_1(x)) * fc_2(x)); Gemma's has another activation."""

    fc_1: Block
    fc_2: Block
    proj: Block
    activation: str = "silu"
    kind: str = "mlp"

    @property
    def parts(self) -> Parts:
        """The three maps."""
        return {"fc_1": self.fc_1, "fc_2": self.fc_2, "proj": self.proj}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LLaMAMLP.forward or GemmaMLP.forward."""
        from oomph import ops

        x_fc_1 = m.fc_1(x)
        x_fc_2 = m.fc_2(x)
        x = ops.activate(m.activation, x_fc_1) * x_fc_2
        projected: Sym = m.proj(x)
        return projected


@dataclass(frozen=True)
class Layer(Block):
    """LitGPT's Block. `parallel`: attention and MLP side by side, on one norm where there is no `norm_2`."""

    norm_1: Block
    attn: CausalSelfAttention
    mlp: Block
    release: Release
    norm_2: Block | None = None
    post_attention_norm: Block | None = None
    post_mlp_norm: Block | None = None
    parallel: bool = False

    @property
    def parts(self) -> Parts:
        """Norms, attention and MLP."""
        return {
            "norm_1": self.norm_1,
            "attn": self.attn,
            "post_attention_norm": self.post_attention_norm,
            "norm_2": self.norm_2,
            "mlp": self.mlp,
            "post_mlp_norm": self.post_mlp_norm,
        }

    @staticmethod
    def program(m: Bound, x: Sym, cos: Sym, sin: Sym) -> Sym:
        """Mirror Block.forward."""
        x_normed = m.norm_1(x)
        attention_output = m.attn(x_normed, cos, sin)
        if m.post_attention_norm is not None:
            attention_output = m.post_attention_norm(attention_output)
        if m.parallel:
            if m.release.keeps_normed:
                n_2 = x_normed if m.norm_2 is None else m.norm_2(x)
                x = m.mlp(n_2) + attention_output + x
                return x
            if m.norm_2 is not None:
                x_normed = m.norm_2(x)
            if m.release.sums == "mlp first":
                x = m.mlp(x_normed) + attention_output + x
                return x
            x = attention_output + x
        elif m.release.sums == "mlp first":
            x = attention_output + x
            x = _after(m, m.mlp(m.norm_2(x))) + x
            return x
        else:
            x = attention_output + x
            x_normed = m.norm_2(x)
        return _after(m, m.mlp(x_normed)) + x


def _after(m: Bound, mlp_output: Sym) -> Sym:
    """Return what an MLP made through the norm behind it, if there is one."""
    if m.post_mlp_norm is None:
        return mlp_output
    normed: Sym = m.post_mlp_norm(mlp_output)
    return normed


@dataclass(frozen=True)
class SoftCap(Block):
    """do_softcapping: logits bounded by a tanh."""

    @property
    def parts(self) -> Parts:
        """Nothing."""
        return {}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror do_softcapping."""
        from oomph import ops

        return ops.tanh(x / 1.0) * 1.0
