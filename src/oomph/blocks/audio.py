"""Audio towers: Whisper's encoder and its kin, and the conformers of Gemma. Everything inside counts as "audio".

Shape letters: H hidden, F ffn, N heads, D head dim, M mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Conv, Embedding, FixedTable, Linear, Norm
from oomph.blocks.vision import layer_norm
from oomph.blocks.vision_gemma import ClippedLinear
from oomph.errors import ConfigError
from oomph.tensor import Tensor

WHISPER_KERNEL = 3  # both convolutions in front of Whisper's encoder
CONFORMER_FFN = 4  # ffn width of a conformer's feed-forward blocks, in H


def share_heads(hidden: int, heads: int) -> int:
    """Return D = H / N, which must divide."""
    if hidden % heads:
        raise ConfigError(f"{hidden} cannot be divided into {heads} attention heads.", "Check the audio_config.")
    return hidden // heads


@dataclass(frozen=True, eq=False)
class WhisperHeads(Module):
    """The maps of attention, whose widths are shared out to heads."""

    num_heads: int = 1


@dataclass(frozen=True)
class WhisperLayer(Block):
    """One pre-norm encoder layer; Whisper's keys have no bias (`k_bias`)."""

    hidden_size: int
    ffn_size: int
    num_heads: int
    k_bias: bool = False
    activation: str = "gelu"
    rate: float = 0.0
    inner_rate: float = 0.0
    attention_rate: float = 0.0

    @property
    def parts(self) -> Parts:
        """Attention, its norm, two maps, their norm."""
        hidden = self.hidden_size
        share_heads(hidden, self.num_heads)
        biased = Linear(hidden, hidden, bias=True)
        attention = {"k_proj": Linear(hidden, hidden, self.k_bias), "v_proj": biased, "q_proj": biased}
        return {
            "self_attn": WhisperHeads({**attention, "out_proj": biased}, num_heads=self.num_heads),
            "self_attn_layer_norm": layer_norm(hidden),
            "fc1": Linear(hidden, self.ffn_size, bias=True),
            "fc2": Linear(self.ffn_size, hidden, bias=True),
            "final_layer_norm": layer_norm(hidden),
        }


@dataclass(frozen=True)
class WhisperEncoder(Block):
    """Whisper's encoder: two convolutions over M mel bins, a table of positions, layers, a final norm.

    Qwen2.5-Omni's (`out_size`) has sinusoidal positions, a begin and an end vector, and a map to the text model.
    Qwen2-Audio's is `pooled`: of two frames one is left. The table of positions never trains; Voxtral's stays in fp32.
    `rates` of dropout are those of states, of what the activation gives, and of attention weights.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    mel_bins: int
    num_positions: int
    out_size: int | None = None
    pooled: bool = False
    activation: str = "gelu"
    rates: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kind: str = "audio"

    @property
    def rate(self) -> float:
        """Of dropout on states."""
        return self.rates[0]

    @property
    def parts(self) -> Parts:
        """Convolutions, positions, layers, output."""
        hidden, size = self.hidden_size, (WHISPER_KERNEL,)
        front = {
            "conv1": Conv(self.mel_bins, hidden, size, bias=True),
            "conv2": Conv(hidden, hidden, size, bias=True),
        }
        layer = WhisperLayer(hidden, self.ffn_size, self.num_heads, False, self.activation, *self.rates)
        layers = Stack.of(layer, self.num_layers)
        if self.out_size is None:
            dtype = None if self.pooled else "fp32"
            positions = FixedTable(self.num_positions, hidden, "position_embedding", dtype=dtype)
            return {**front, "embed_positions": positions, "layers": layers, "layer_norm": layer_norm(hidden)}
        return {
            **front,
            "audio_bos_eos_token": Embedding(2, self.out_size),
            "layers": layers,
            "ln_post": layer_norm(hidden),
            "proj": Linear(hidden, self.out_size, bias=True),
        }


@dataclass(frozen=True)
class Qwen3OmniAudio(Block):
    """Qwen3-Omni's encoder: three strided 2-d convolutions instead of Whisper's two, every map with bias."""

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    mel_bins: int
    conv_channels: int
    out_size: int
    num_positions: int = 1500
    kind: str = "audio"

    @property
    def parts(self) -> Parts:
        """Layers, convolutions, output maps."""
        hidden, channels, size = self.hidden_size, self.conv_channels, (WHISPER_KERNEL, WHISPER_KERNEL)
        bins = self.mel_bins
        for _ in ("conv2d1", "conv2d2", "conv2d3"):
            bins = (bins + 1) // 2  # stride 2, padded
        inner = Conv(channels, channels, size, bias=True)
        layer = WhisperLayer(hidden, self.ffn_size, self.num_heads, k_bias=True)
        return {
            "layers": Stack.of(layer, self.num_layers),
            "ln_post": layer_norm(hidden),
            "conv2d1": Conv(1, channels, size, bias=True),
            "conv2d2": inner,
            "conv2d3": inner,
            "conv_out": Linear(channels * bins, hidden),
            "proj1": Linear(hidden, hidden, bias=True),
            "proj2": Linear(hidden, self.out_size, bias=True),
        }


@dataclass(frozen=True)
class UniversalSpeech(Block):
    """Gemma 3n's audio tower: two strided convolutions, then conformer blocks.

    A block is half an MLP, attention over chunks with relative positions, a light convolution, half an MLP.
    `channels`, `kernels` (time, frequency) and `strides` (frequency) are those of the two convolutions in front;
    `window` is how many frames a chunk has, and how many it sees.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    mel_bins: int
    conv_kernel: int
    channels: tuple[int, int]
    kernels: tuple[tuple[int, int], tuple[int, int]]
    strides: tuple[int, int]
    window: tuple[int, int] = (12, 24)
    kind: str = "audio"

    @property
    def bins_left(self) -> int:
        """Frequency bins after both convolutions, which are padded by one on each side."""
        bins = self.mel_bins
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            bins = (bins + 2 - kernel[1]) // stride + 1
        return bins

    def _feed_forward(self) -> Module:
        hidden = self.hidden_size
        return Module(
            {
                "pre_layer_norm": Norm(hidden),
                "ffw_layer_1": Linear(hidden, hidden * CONFORMER_FFN),
                "ffw_layer_2": Linear(hidden * CONFORMER_FFN, hidden),
                "post_layer_norm": Norm(hidden),
            }
        )

    def _attention(self) -> Module:
        hidden = self.hidden_size
        square = Linear(hidden, hidden)
        inner: dict[str, Part] = {
            "per_dim_scale": Tensor((share_heads(hidden, self.num_heads),), "param"),
            "relative_position_embedding": Module({"pos_proj": square}),
            "q_proj": square,
            "k_proj": square,
            "v_proj": square,
        }
        norm = Norm(hidden)
        return Module({"pre_attn_norm": norm, "attn": Module(inner), "post": square, "post_norm": norm})

    def _convolution(self) -> Module:
        hidden = self.hidden_size
        return Module(
            {
                "pre_layer_norm": Norm(hidden),
                "linear_start": Linear(hidden, hidden * 2),
                "depthwise_conv1d": Conv(hidden, hidden, (self.conv_kernel,), groups=hidden),
                "conv_norm": Norm(hidden),
                "linear_end": Linear(hidden, hidden),
            }
        )

    @property
    def parts(self) -> Parts:
        """Front convolutions with their map, conformer blocks."""
        first, last = self.channels
        front = {
            "conv_0": Module({"conv": Conv(1, first, self.kernels[0]), "norm": Norm(first)}),
            "conv_1": Module({"conv": Conv(first, last, self.kernels[1]), "norm": Norm(last)}),
            "input_proj_linear": Linear(last * self.bins_left, self.hidden_size),
        }
        half = self._feed_forward()
        block = Module(
            {
                "ffw_layer_start": half,
                "attention": self._attention(),
                "lconv1d": self._convolution(),
                "ffw_layer_end": half,
                "norm": Norm(self.hidden_size),
            }
        )
        return {
            "subsample_conv_projection": Module(front),
            "conformer": Stack.of(block, self.num_layers),
        }


@dataclass(frozen=True)
class Gemma4Audio(Block):
    """Gemma 4's audio tower: Gemma 3n's conformer with clipped maps, and a map to `out_size` on top."""

    hidden_size: int
    num_layers: int
    num_heads: int
    conv_kernel: int
    channels: tuple[int, int]
    out_size: int
    clipped: bool = True
    kind: str = "audio"

    def _map(self, outputs: int, inputs: int = 1) -> ClippedLinear:
        return ClippedLinear(self.hidden_size * inputs, self.hidden_size * outputs, self.clipped)

    def _layer(self) -> Module:
        norm, square = Norm(self.hidden_size), self._map(1)
        feed_forward = Module(
            {
                "ffw_layer_1": self._map(CONFORMER_FFN),
                "ffw_layer_2": self._map(1, CONFORMER_FFN),
                "pre_layer_norm": norm,
                "post_layer_norm": norm,
            }
        )
        attention: dict[str, Part] = {
            "per_dim_scale": Tensor((share_heads(self.hidden_size, self.num_heads),), "param"),
            "q_proj": square,
            "k_proj": square,
            "v_proj": square,
            "post": square,
            "relative_k_proj": Linear(self.hidden_size, self.hidden_size),
        }
        convolution = {
            "linear_start": self._map(2),
            "linear_end": square,
            "depthwise_conv1d": Conv(self.hidden_size, self.hidden_size, (self.conv_kernel,), groups=self.hidden_size),
            "pre_layer_norm": norm,
            "conv_norm": norm,
        }
        return Module(
            {
                "feed_forward1": feed_forward,
                "feed_forward2": feed_forward,
                "self_attn": Module(attention),
                "lconv1d": Module(convolution),
                "norm_pre_attn": norm,
                "norm_post_attn": norm,
                "norm_out": norm,
            }
        )

    @property
    def parts(self) -> Parts:
        """Front convolutions with their map, layers, output map."""
        (first, last), size = self.channels, (WHISPER_KERNEL, WHISPER_KERNEL)
        # The class takes the mel bins left after both strides to be a quarter of the first channels.
        quarter = first // 2 // 2
        front = {
            "layer0": Module({"conv": Conv(1, first, size), "norm": Norm(first)}),
            "layer1": Module({"conv": Conv(first, last, size), "norm": Norm(last)}),
            "input_proj_linear": Linear(quarter * last, self.hidden_size),
        }
        return {
            "subsample_conv_projection": Module(front),
            "layers": Stack.of(self._layer(), self.num_layers),
            "output_proj": Linear(self.hidden_size, self.out_size, bias=True),
        }
