"""Vision towers that take images at their own size: rotary or interpolated positions, patches merged on the way out.

Everything in a tower counts as "vision", its patch merger too. Shape letters as in blocks/vision.py; T is the
number of video frames in one patch, M how many patches a side are merged into one token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from oomph.blocks.base import Block, Module, Parts, Stack
from oomph.blocks.basic import Conv, Embedding, Linear, Norm
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.blocks.vision import CLIP_QKV, FC, full_attention, layer_norm
from oomph.tensor import Tensor

FC_LINEAR = ("linear_fc1", "linear_fc2")


@dataclass(frozen=True)
class QwenVision(Block):
    """The ViT of Qwen2-VL (`gated=False`: LayerNorm, plain MLP) and Qwen2.5-VL (RMSNorm, gated MLP), whose layers
    but the `full_layers` attend inside windows of `window` pixels a side.

    Qwen2-VL-7B: 32 layers of 1280, 5120 merged features onto the text model's 3584.
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(QwenVision(1280, 5120, 32, 16, 3584, 14, 2, 2, gated=False)))
    675759104
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    out_size: int
    patch_size: int
    frames: int
    merge: int
    num_channels: int = 3
    gated: bool = True
    qkv: tuple[str, ...] = ("qkv",)
    activation: str = "silu"
    window: int = 0
    full_layers: tuple[int, ...] = ()
    kind: str = "vision"

    @property
    def parts(self) -> Parts:
        """Patch map, layers, merger."""
        hidden, patch = self.hidden_size, self.patch_size
        merged = hidden * self.merge**2
        norm = Norm(hidden, bias=not self.gated)
        layer = Module(
            {
                "norm1": norm,
                "norm2": norm,
                "attn": full_attention(hidden, self.num_heads, qkv=self.qkv, out="proj"),
                "mlp": GatedMLP(hidden, self.ffn_size, bias=True, activation=self.activation)
                if self.gated
                else MLP(hidden, self.ffn_size, bias=True, names=FC, activation=self.activation),
            }
        )
        maps = {"0": Linear(merged, merged, bias=True), "2": Linear(merged, self.out_size, bias=True)}
        return {
            "patch_embed": Module({"proj": Conv(self.num_channels, hidden, (self.frames, patch, patch))}),
            "blocks": Stack.of(layer, self.num_layers),
            "merger": Module({"ln_q": norm, "mlp": Module(maps)}),
        }


OMNI_MERGERS = "merger_list"  # what Qwen3-Omni calls the mergers of inner layers


@dataclass(frozen=True)
class PatchMerger(Block):
    """Qwen3-VL's merger of M² patches: norm (before or after they are joined), two maps. `names` as the class has."""

    hidden_size: int
    out_size: int
    merge: int
    norm_after: bool = False
    names: tuple[str, str, str] = ("norm", "linear_fc1", "linear_fc2")

    @property
    def parts(self) -> Parts:
        """Norm and the two maps; a dotted name is a list's entry."""
        merged = self.hidden_size * self.merge**2
        norm, first, second = self.names
        maps = {first: Linear(merged, merged, bias=True), second: Linear(merged, self.out_size, bias=True)}
        return {norm: layer_norm(merged if self.norm_after else self.hidden_size), **maps}


@dataclass(frozen=True)
class Qwen3Vision(Block):
    """The ViT of Qwen3-VL, Qwen3.5 and Qwen3-Omni: learned positions, and mergers at `deep_layers` too."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    out_size: int
    patch_size: int
    frames: int
    merge: int
    num_positions: int
    deep_layers: tuple[int, ...] = ()
    num_channels: int = 3
    deep_name: str = "deepstack_merger_list"
    merger_names: tuple[str, str, str] = ("norm", "linear_fc1", "linear_fc2")
    activation: str = "gelu_pytorch_tanh"
    kind: str = "vision"

    @property
    def of_omni(self) -> bool:
        """Whether it is Qwen3-Omni's, whose processor is Qwen2-VL's."""
        return self.deep_name == OMNI_MERGERS

    @property
    def num_deep(self) -> int:
        """How many inner layers have a merger, whose features go to the decoder's first layers."""
        return len(self.deep_layers)

    @property
    def parts(self) -> Parts:
        """Patch map, positions, layers, mergers."""
        hidden, patch, names = self.hidden_size, self.patch_size, self.merger_names
        layer = Module(
            {
                "norm1": layer_norm(hidden),
                "norm2": layer_norm(hidden),
                "attn": full_attention(hidden, self.num_heads, qkv=("qkv",), out="proj"),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC_LINEAR, activation=self.activation),
            }
        )
        deep = PatchMerger(hidden, self.out_size, self.merge, norm_after=True, names=names)
        inner: Parts = {self.deep_name: Stack.of(deep, self.num_deep)}
        return {
            **(inner if self.of_omni else {}),
            "patch_embed": Module({"proj": Conv(self.num_channels, hidden, (self.frames, patch, patch), bias=True)}),
            "pos_embed": Embedding(self.num_positions, hidden),
            "blocks": Stack.of(layer, self.num_layers),
            "merger": PatchMerger(hidden, self.out_size, self.merge, names=names),
            **({} if self.of_omni else inner),
        }


@dataclass(frozen=True)
class GlmVision(Block):
    """The ViT of GLM-4V: RMSNorm, gated MLP of the text model's width, patches merged by a strided convolution."""

    hidden_size: int
    merger_ffn: int
    num_layers: int
    num_heads: int
    out_size: int
    image_size: int
    patch_size: int
    frames: int
    merge: int
    num_channels: int = 3
    qkv_bias: bool = False
    kind: str = "vision"

    @property
    def parts(self) -> Parts:
        """Positions, patch map, layers, merger; the layers' ffn is `out_size` wide, the merger's `merger_ffn`."""
        hidden, out, patch, merge = self.hidden_size, self.out_size, self.patch_size, self.merge
        layer = Module(
            {
                "norm1": Norm(hidden),
                "norm2": Norm(hidden),
                "attn": full_attention(
                    hidden, self.num_heads, bias=self.qkv_bias, out_bias=False, qkv=("qkv",), out="proj"
                ),
                "mlp": GatedMLP(hidden, out),
            }
        )
        merger = {
            "proj": Linear(out, out),
            "post_projection_norm": layer_norm(out),
            **GatedMLP(out, self.merger_ffn).parts,
        }
        positions = Embedding((self.image_size // patch) ** 2, hidden)
        return {
            "embeddings": Module({"position_embedding": positions}),
            "patch_embed": Module({"proj": Conv(self.num_channels, hidden, (self.frames, patch, patch), bias=True)}),
            "blocks": Stack.of(layer, self.num_layers),
            "merger": Module(merger),
            "post_conv_layernorm": Norm(hidden),
            "downsample": Conv(hidden, out, (merge, merge), bias=True),
            "post_layernorm": Norm(hidden),
        }


@dataclass(frozen=True)
class PixtralVision(Block):
    """Pixtral's ViT: a Llama without biases on patches, rotary in two dimensions; `image_size` is the most pixels that
    its processor leaves a side. `dropout` is the rate on the attention weights.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    num_channels: int = 3
    image_size: int = 1024
    activation: str = "gelu"
    dropout: float = 0.0
    kind: str = "vision"

    @property
    def parts(self) -> Parts:
        """Patch map, norm, layers."""
        hidden, patch = self.hidden_size, self.patch_size
        attention = full_attention(hidden, self.num_heads, bias=False, out_bias=False, qkv=CLIP_QKV, out="o_proj")
        layer = Module(
            {
                "attention_norm": Norm(hidden),
                "feed_forward": GatedMLP(hidden, self.ffn_size, activation=self.activation),
                "attention": replace(attention, dropout=self.dropout),
                "ffn_norm": Norm(hidden),
            }
        )
        return {
            "patch_conv": Conv(self.num_channels, hidden, (patch, patch)),
            "ln_pre": Norm(hidden),
            "transformer": Module({"layers": Stack.of(layer, self.num_layers)}),
        }


@dataclass(frozen=True)
class MoonVision(Block):
    """MoonViT of Kimi-K2.5: a learned grid of positions (time is sinusoidal, not stored), rotary inside."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    patch_size: tuple[int, int]
    grid: tuple[int, int]
    num_frames: int = 4
    num_channels: int = 3
    kind: str = "vision"

    @property
    def parts(self) -> Parts:
        """Patch map with positions, layers, norm."""
        hidden = self.hidden_size
        layer = Module(
            {
                "norm1": layer_norm(hidden),
                "norm2": layer_norm(hidden),
                "attn": full_attention(hidden, self.num_heads, out="proj"),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC),
            }
        )
        patches = {
            "proj": Conv(self.num_channels, hidden, self.patch_size, bias=True),
            "pos_emb": Module({"position_embeddings": Tensor((*self.grid, hidden), "param")}),
        }
        return {
            "patch_embed": Module(patches),
            "layers": Stack.of(layer, self.num_layers),
            "final_layernorm": layer_norm(hidden),
        }


@dataclass(frozen=True)
class MinimaxVision(Block):
    """The ViT of MiniMax-M3: CLIP's layers on video patches, rotary in three dimensions, no positions stored."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    frames: int
    num_channels: int = 3
    kind: str = "vision"

    @property
    def parts(self) -> Parts:
        """Patch map, norm, layers."""
        hidden, patch = self.hidden_size, self.patch_size
        layer = Module(
            {
                "self_attn": full_attention(hidden, self.num_heads),
                "layer_norm1": layer_norm(hidden),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC),
                "layer_norm2": layer_norm(hidden),
            }
        )
        return {
            "embeddings": Module({"proj": Conv(self.num_channels, hidden, (self.frames, patch, patch))}),
            "pre_layrnorm": layer_norm(hidden),  # the class misspells it
            "layers": Stack.of(layer, self.num_layers),
        }


@dataclass(frozen=True)
class StepVision(Block):
    """The ViT of Step-3.7: learned positions and rotary, scaled branches, two strided convolutions on top."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    kernel: int = 3
    kind: str = "vision"

    @property
    def out_size(self) -> int:
        """Features of one token: each downsampler doubles them."""
        return self.hidden_size * 2 * 2

    @property
    def parts(self) -> Parts:
        """Embeddings, layers, downsamplers."""
        hidden, patch, size = self.hidden_size, self.patch_size, (self.kernel, self.kernel)
        scale = Tensor((hidden,), "param")
        layer = Module(
            {
                "self_attn": full_attention(hidden, self.num_heads),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC),
                "layernorm_before": layer_norm(hidden),
                "layernorm_after": layer_norm(hidden),
                "lambda_1": scale,
                "lambda_2": scale,
            }
        )
        embeddings = {
            "patch_embedding": Conv(self.num_channels, hidden, (patch, patch)),
            "position_embedding": Embedding((self.image_size // patch) ** 2, hidden),
        }
        return {
            "embeddings": Module(embeddings),
            "pre_layernorm": layer_norm(hidden),
            "layers": Stack.of(layer, self.num_layers),
            "downsampler1": Conv(hidden, hidden * 2, size, bias=True),
            "downsampler2": Conv(hidden * 2, self.out_size, size, bias=True),
        }
