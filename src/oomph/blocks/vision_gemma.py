"""Gemma 4's vision tower, and the clipped linear map that its audio tower shares."""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.tensor import Tensor

CLIP_BOUNDS = ("input_min", "input_max", "output_min", "output_max")
RGB = 3


@dataclass(frozen=True)
class ClippedLinear(Block):
    """A linear map without bias whose inputs and outputs are clipped to four stored scalars, if `clipped`."""

    in_features: int
    out_features: int
    clipped: bool

    @property
    def parts(self) -> Parts:
        """The map and the bounds, which are buffers."""
        bounds: dict[str, Part] = {name: Tensor((), "bias buffer") for name in CLIP_BOUNDS} if self.clipped else {}
        return {"linear": Linear(self.in_features, self.out_features), **bounds}


@dataclass(frozen=True)
class Gemma4Vision(Block):
    """Gemma 4's ViT: a linear patch map, a table of positions per axis, Gemma's four norms, gated MLP.

    `standardize` stores a shift and a scale of the output, as buffers.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    patch_size: int
    num_positions: int
    clipped: bool = False
    standardize: bool = False
    kind: str = "vision"

    def _attention(self) -> Module:
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return Module(
            {
                "q_proj": ClippedLinear(self.hidden_size, queries, self.clipped),
                "k_proj": ClippedLinear(self.hidden_size, keys, self.clipped),
                "v_proj": ClippedLinear(self.hidden_size, keys, self.clipped),
                "o_proj": ClippedLinear(queries, self.hidden_size, self.clipped),
                "q_norm": Norm(self.head_dim),
                "k_norm": Norm(self.head_dim),
            }
        )

    @property
    def parts(self) -> Parts:
        """Patch map and positions, layers, output statistics."""
        hidden, ffn, clipped = self.hidden_size, self.ffn_size, self.clipped
        mlp = {
            "gate_proj": ClippedLinear(hidden, ffn, clipped),
            "up_proj": ClippedLinear(hidden, ffn, clipped),
            "down_proj": ClippedLinear(ffn, hidden, clipped),
        }
        layer = Module(
            {
                "self_attn": self._attention(),
                "mlp": Module(mlp),
                "input_layernorm": Norm(hidden),
                "post_attention_layernorm": Norm(hidden),
                "pre_feedforward_layernorm": Norm(hidden),
                "post_feedforward_layernorm": Norm(hidden),
            }
        )
        embedder: dict[str, Part] = {
            "input_proj": Linear(RGB * self.patch_size**2, hidden),
            "position_embedding_table": Tensor((2, self.num_positions, hidden), "param"),
        }
        statistics = Tensor((hidden,), "bias buffer") if self.standardize else None
        return {
            "patch_embedder": Module(embedder),
            "encoder": Module({"layers": Stack.of(layer, self.num_layers)}),
            "std_bias": statistics,
            "std_scale": statistics,
        }
