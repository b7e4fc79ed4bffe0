"""Vision towers for images of one fixed size: CLIP, SigLIP and those built like them.

Everything in a tower counts as "vision". Shape letters: H hidden, F ffn, C channels, P patch side, S patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Conv, Embedding, Linear, Norm
from oomph.blocks.mlp import MLP
from oomph.errors import ConfigError
from oomph.tensor import Tensor

QKV = ("q_proj", "k_proj", "v_proj")
CLIP_QKV = ("k_proj", "v_proj", "q_proj")  # as CLIP's class has them
SIGLIP_ORDER = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
FC = ("fc1", "fc2")


def full_attention(
    hidden: int,
    heads: int,
    *,
    bias: bool = True,
    out_bias: bool = True,
    qkv: tuple[str, ...] = QKV,
    out: str = "out_proj",
    qk_norm: Norm | None = None,
) -> Attention:
    """Return attention whose heads share the width evenly, as in every ViT."""
    if hidden % heads:
        raise ConfigError(f"{hidden} cannot be divided into {heads} attention heads.", "Check the vision_config.")
    return Attention(
        hidden, heads, heads, hidden // heads, qkv_bias=bias, out_bias=out_bias, qkv=qkv, out=out,
        q_norm=qk_norm, k_norm=qk_norm,
    )  # fmt: skip


def layer_norm(size: int) -> Norm:
    """Return a LayerNorm with bias."""
    return Norm(size, bias=True)


@dataclass(frozen=True)
class PoolingHead(Block):
    """SigLIP's attention pooling: one learned query over all patches, then an MLP."""

    hidden_size: int
    ffn_size: int

    @property
    def parts(self) -> Parts:
        """The query, nn.MultiheadAttention (its qkv map fused and bare), norm and MLP."""
        hidden = self.hidden_size
        attention: dict[str, Part] = {
            "in_proj_weight": Tensor((len(QKV) * hidden, hidden), "linear"),
            "in_proj_bias": Tensor((len(QKV) * hidden,), "bias"),
            "out_proj": Linear(hidden, hidden, bias=True),
        }
        return {
            "probe": Tensor((1, 1, hidden), "param"),
            "attention": Module(attention),
            "layernorm": layer_norm(hidden),
            "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC),
        }


@dataclass(frozen=True)
class ClipVision(Block):
    """CLIP's ViT: a class token, learned positions, pre-norm layers with biases everywhere.

    SigLIP (`class_token=False`) has no class token and no norm before the layers, but a bias on the patch map,
    and with `pooling_head` an attention pool on top. Positions: S, plus one with the class token. SigLIP 2 at
    native size (`native_patches`, its table of positions, resized per image) maps patches by a linear map.
    `dropout` is the rate on the attention weights. With `norms_first` layers list a norm before what it norms.

    CLIP ViT-L/14 at 336 pixels, as in LLaVA-1.5:
    >>> from oomph.blocks.base import walk
    >>> sum(w.numel for w in walk(ClipVision(1024, 4096, 24, 16, 336, 14)))
    303507456
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    class_token: bool = True
    pooling_head: bool = False
    native_patches: int | None = None
    activation: str = "quick_gelu"
    dropout: float = 0.0
    norms_first: bool = False
    kind: str = "vision"

    @property
    def num_positions(self) -> int:
        """Patches of one image, and the class token."""
        return self.native_patches or (self.image_size // self.patch_size) ** 2 + self.class_token

    @property
    def parts(self) -> Parts:
        """Embeddings, layers, norms, pooling head."""
        hidden, patch, token = self.hidden_size, self.patch_size, self.class_token
        layer: dict[str, Part] = {
            "self_attn": full_attention(hidden, self.num_heads, qkv=CLIP_QKV),
            "layer_norm1": layer_norm(hidden),
            "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC, activation=self.activation),
            "layer_norm2": layer_norm(hidden),
        }
        if self.norms_first:
            layer = {name: layer[name] for name in SIGLIP_ORDER}
        inputs = self.num_channels
        embeddings: dict[str, Part] = {
            "class_embedding": Tensor((hidden,), "param") if token else None,
            "patch_embedding": Linear(inputs * patch * patch, hidden, bias=True)
            if self.native_patches
            else Conv(inputs, hidden, (patch, patch), bias=not token),
            "position_embedding": Embedding(self.num_positions, hidden),
        }
        return {
            "embeddings": Module(embeddings),
            "pre_layrnorm": layer_norm(hidden) if token else None,  # the class misspells it
            "encoder": Module({"layers": Stack.of(Module(layer), self.num_layers)}),
            "post_layernorm": layer_norm(hidden),
            "head": PoolingHead(hidden, self.ffn_size) if self.pooling_head else None,
        }


@dataclass(frozen=True)
class IdeficsVision(ClipVision):
    """SigLIP as Idefics 3 and SmolVLM have it: for tiles of images, its positions looked up anew each time."""


@dataclass(frozen=True)
class InternVision(Block):
    """InternViT: class token, optional learned positions, a learned scale on each residual branch."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_channels: int = 3
    qkv_bias: bool = False
    qk_norm: bool = False
    rms_norm: bool = False
    mask_token: bool = False
    positions: bool = True
    final_norm: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    other_dropout: float = 0.0
    kind: str = "vision"

    @property
    def num_positions(self) -> int:
        """Patches of one image, and the class token."""
        (height, width), (patch_height, patch_width) = self.image_size, self.patch_size
        return (height // patch_height) * (width // patch_width) + 1

    @property
    def parts(self) -> Parts:
        """Embeddings, layers and the final norm that mean pooling does without."""
        hidden = self.hidden_size
        vector = Tensor((1, 1, hidden), "param")
        norm = Norm(hidden, bias=not self.rms_norm)
        layer = Module(
            {
                "lambda_1": Tensor((hidden,), "param"),
                "lambda_2": Tensor((hidden,), "param"),
                "attention": full_attention(
                    hidden, self.num_heads, bias=self.qkv_bias, out="projection_layer",
                    qk_norm=Norm(hidden) if self.qk_norm else None,
                ),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC, activation=self.activation),
                "layernorm_before": norm,
                "layernorm_after": norm,
            }
        )  # fmt: skip
        embeddings: dict[str, Part] = {
            "cls_token": vector,
            "mask_token": vector if self.mask_token else None,
            "position_embeddings": Tensor((1, self.num_positions, hidden), "param") if self.positions else None,
            "patch_embeddings": Module({"projection": Conv(self.num_channels, hidden, self.patch_size, bias=True)}),
        }
        return {
            "embeddings": Module(embeddings),
            "encoder": Module({"layer": Stack.of(layer, self.num_layers)}),
            "layernorm": layer_norm(hidden) if self.final_norm else None,
        }


@dataclass(frozen=True)
class Llama4Vision(Block):
    """Llama 4's ViT: a linear patch map, class token, learned and rotary positions, and a pixel-shuffle MLP.

    The adapter's first map takes `ffn_size` inputs, as the class has it: P·P patches shuffled into one.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    adapter_in: int
    adapter_out: int
    num_channels: int = 3
    shuffle_ratio: float = 0.5
    dropout: float = 0.0
    adapter_dropout: float = 0.0
    kind: str = "vision"

    @property
    def num_positions(self) -> int:
        """Patches of one tile, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def merge(self) -> int:
        """Patches a side that become one token."""
        return round(1 / self.shuffle_ratio)

    @property
    def merged(self) -> int:
        """Features of patches that become one token."""
        return self.hidden_size * self.merge**2

    @property
    def parts(self) -> Parts:
        """Embeddings, layers and adapter."""
        hidden, patch = self.hidden_size, self.patch_size
        layer = Module(
            {
                "self_attn": full_attention(hidden, self.num_heads, out="o_proj"),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC, activation="gelu"),
                "input_layernorm": layer_norm(hidden),
                "post_attention_layernorm": layer_norm(hidden),
            }
        )
        adapter = {
            "fc1": Linear(self.ffn_size, self.adapter_in),
            "fc2": Linear(self.adapter_out, self.adapter_out),
        }
        return {
            "class_embedding": Tensor((hidden,), "param"),
            "positional_embedding_vlm": Tensor((self.num_positions, hidden), "param"),
            "patch_embedding": Module({"linear": Linear(self.num_channels * patch * patch, hidden)}),
            "layernorm_pre": layer_norm(hidden),
            "layernorm_post": layer_norm(hidden),
            "model": Module({"layers": Stack.of(layer, self.num_layers)}),
            "vision_adapter": Module({"mlp": Module(adapter)}),
        }


@dataclass(frozen=True)
class MllamaVision(Block):
    """Llama 3.2's ViT: an image is up to `max_tiles` tiles in one of `aspect_ratios` arrangements.

    Tables of tile positions are learned per arrangement (and one for "no image"); `num_global_layers` layers
    with gated branches follow the ordinary ones, of which the states of those `taken` are handed on too.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_global_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    max_tiles: int
    aspect_ratios: int
    num_channels: int = 3
    activation: str = "gelu"
    taken: tuple[int, ...] = ()
    kind: str = "vision"

    @property
    def num_patches(self) -> int:
        """Patches of a tile, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def _layer(self, gated: bool) -> Module:
        hidden = self.hidden_size
        gate = Tensor((1,), "param") if gated else None
        return Module(
            {
                "gate_attn": gate,
                "gate_ffn": gate,
                "self_attn": full_attention(hidden, self.num_heads, bias=False, out_bias=False, out="o_proj"),
                "mlp": MLP(hidden, self.ffn_size, bias=True, names=FC, activation=self.activation),
                "input_layernorm": layer_norm(hidden),
                "post_attention_layernorm": layer_norm(hidden),
            }
        )

    @property
    def parts(self) -> Parts:
        """Patch map, position tables, the two stacks of layers."""
        hidden, patch, tiles, rows = self.hidden_size, self.patch_size, self.max_tiles, self.aspect_ratios + 1
        positions = self.num_patches
        gate = Tensor((1,), "param")
        tile = Module({"gate": gate, "embedding": Embedding(rows, tiles * hidden)})
        gated_positions: dict[str, Part] = {
            "gate": gate,
            "embedding": Tensor((positions, hidden), "param"),
            "tile_embedding": Embedding(rows, tiles * positions * hidden),
        }
        return {
            "class_embedding": Tensor((hidden,), "param"),
            "patch_embedding": Conv(self.num_channels, hidden, (patch, patch)),
            "gated_positional_embedding": Module(gated_positions),
            "pre_tile_positional_embedding": tile,
            "post_tile_positional_embedding": tile,
            "layernorm_pre": layer_norm(hidden),
            "layernorm_post": layer_norm(hidden),
            "transformer": Module({"layers": Stack.of(self._layer(False), self.num_layers)}),
            "global_transformer": Module({"layers": Stack.of(self._layer(True), self.num_global_layers)}),
        }
