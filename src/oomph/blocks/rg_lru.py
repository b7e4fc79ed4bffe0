"""RecurrentGemma's (Griffin's) recurrent block around the real-gated linear recurrent unit.

Shape letters: H hidden, W recurrence width, N blocks of the block-diagonal gates, K convolution kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Linear
from oomph.blocks.cached import Cached, StateCache
from oomph.blocks.mamba import depthwise
from oomph.tensor import Tensor


@dataclass(frozen=True)
class RgLru(Block):
    """h ← a·h + √(1 - a²)·(gate·x): an input gate and a recurrence gate, each N blocks of (W/N, W/N)."""

    width: int
    num_blocks: int

    @property
    def parts(self) -> Parts:
        """The decay of every channel, and weight and bias of both gates."""
        block = self.width // self.num_blocks
        weight, bias = (self.num_blocks, block, block), (self.num_blocks, block)
        return {
            "recurrent_param": Tensor((self.width,), "param"),
            "input_gate_weight": Tensor(weight, "param"),
            "input_gate_bias": Tensor(bias, "bias"),
            "recurrent_gate_weight": Tensor(weight, "param"),
            "recurrent_gate_bias": Tensor(bias, "bias"),
        }


@dataclass(frozen=True)
class RecurrentBlock(Block):
    """Two branches in (H, W), a convolution and the recurrence on one of them, their product out (W, H).

    >>> RecurrentBlock(2560, 2560, 10, 4).parts["rg_lru"].parts["input_gate_weight"].shape
    (10, 256, 256)
    """

    hidden_size: int
    width: int
    num_blocks: int
    conv_kernel: int
    activation: str = "gelu_pytorch_tanh"
    kind: str = "rg_lru"

    @property
    def parts(self) -> Parts:
        """The three maps (with bias), the convolution, the recurrence."""
        return {
            "linear_y": Linear(self.hidden_size, self.width, bias=True),
            "linear_x": Linear(self.hidden_size, self.width, bias=True),
            "linear_out": Linear(self.width, self.hidden_size, bias=True),
            "conv_1d": depthwise(self.width, self.conv_kernel, bias=True),
            "rg_lru": RgLru(self.width, self.num_blocks),
        }

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the convolution saw last, and one number per channel."""
        return (StateCache("rg_lru", self.width, self.conv_kernel, (self.width,)),)
