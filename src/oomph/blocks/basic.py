"""The leaves every model is made of: linear maps, norms, embeddings, the head, convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.errors import UnsupportedError
from oomph.tensor import Role, Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Linear(Block):
    """y = x Wᵀ + b. Weight (out, in) as nn.Linear stores it; `role="conv1d"` stores (in, out) as GPT-2 does.

    >>> Linear(4096, 1024).parts["weight"].shape
    (1024, 4096)
    """

    in_features: int
    out_features: int
    bias: bool = False
    role: Role = "linear"
    kind: str = ""

    @property
    def parts(self) -> Parts:
        """Weight and, if any, bias."""
        shape = (self.out_features, self.in_features)
        weight = Tensor(shape[::-1] if self.role == "conv1d" else shape, self.role)
        return {"weight": weight, "bias": Tensor((self.out_features,), "bias") if self.bias else None}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror nn.Linear.forward, or GPT-2's Conv1D.forward."""
        from oomph import ops

        if m.role != "conv1d":
            return ops.linear(x, m.weight, m.parts["bias"])
        size_out = (*x.shape[:-1], m.out_features)
        x = ops.addmm(m.parts["bias"], ops.view(x, (ops.rows(x), x.shape[-1])), m.weight)
        x = ops.view(x, size_out)
        return x


@dataclass(frozen=True)
class Fp32Linear(Linear):
    """The same map without a bias, its weight in fp32 whatever the model is."""

    @property
    def parts(self) -> Parts:
        """The weight."""
        return {"weight": Tensor((self.out_features, self.in_features), self.role, "fp32"), "bias": None}


@dataclass(frozen=True)
class UnfusedLinear(Linear):
    """The same map as a product and a sum of their own, as Falcon writes it."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror FalconLinear.forward."""
        from oomph import ops

        return ops.linear_unfused(x, m.weight, m.parts["bias"])


@dataclass(frozen=True)
class Norm(Block):
    """RMSNorm (scale only) or, with `bias`, LayerNorm; `style` names another way to compute it, see norms.py."""

    size: int
    bias: bool = False
    style: str = ""
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """Scale and, if any, bias."""
        return {
            "weight": Tensor((self.size,), "norm"),
            "bias": Tensor((self.size,), "bias") if self.bias else None,
        }

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror the forward of its style."""
        from oomph.blocks.norms import STYLES

        return STYLES[m.style or ("layer" if m.bias is not None else "rms")](m, hidden_states)


@dataclass(frozen=True)
class Fp32Norm(Norm):
    """The same whose scale a class keeps in fp32 whatever the model is, and applies there."""

    style: str = "rms in fp32"

    @property
    def built_parts(self) -> Parts:
        """The scale as the class keeps it."""
        return {"weight": Tensor((self.size,), "norm", "fp32"), "bias": None}


@dataclass(frozen=True)
class BareNorm(Block):
    """A norm without parameters, as OLMo 1 has them."""

    style: str = "layer in fp32"
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """Nothing."""
        return {}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror the forward of its style."""
        from oomph.blocks.norms import STYLES

        return STYLES[m.style](m, hidden_states)


@dataclass(frozen=True)
class Buffer(Block):
    """A tensor that a class registers, on the device but in no checkpoint: a table of sines, a triangle of booleans."""

    shape: tuple[int, ...]
    dtype: str = "fp32"

    @property
    def parts(self) -> Parts:
        """Nothing that is stored."""
        return {}


@dataclass(frozen=True)
class Shared(Buffer):
    """A buffer of the whole model that many of its blocks read: `tape.shared` has it under its path."""


@dataclass(frozen=True)
class Embedding(Block):
    """A table of `rows` vectors: tokens, positions (kind "position_embedding"), token types.

    `scaled`: vectors are multiplied by a number that lies on the device as a buffer (Gemma); `times`: what layers read
    is multiplied by one that does not (AfMoE).
    """

    rows: int
    size: int
    kind: str = "embedding"
    scaled: bool = False
    times: bool = False

    @property
    def parts(self) -> Parts:
        """The table."""
        return {"weight": Tensor((self.rows, self.size), "embedding")}

    @staticmethod
    def program(m: Bound, ids: Sym) -> Sym:
        """Mirror nn.Embedding.forward, or GemmaTextScaledWordEmbedding.forward, whose buffer the frame makes, and the
        hook on input embeddings that lets checkpointed layers train."""
        from oomph import ops

        if ids.dtype != "int64":
            return ids  # what was embedded by the caller: inputs_embeds
        output: Sym = ops.embedding(m.weight, ids)
        if m.scaled:
            embed_scale = ops.cast(m.embed_scale, m.weight.dtype)
            output = output * embed_scale
            del embed_scale
        if m.tape.inputs_train and m.kind == "embedding":
            output.requires_grad = True
        return output


@dataclass(frozen=True)
class FixedTable(Embedding):
    """A table of sinusoids that a class stores as a parameter which never trains (Pegasus, Whisper), in the job's dtype
    or one of its own (Voxtral).
    """

    dtype: str | None = None

    @property
    def parts(self) -> Parts:
        """The table."""
        return {"weight": Tensor((self.rows, self.size), "embedding", self.dtype, trains=False)}


@dataclass(frozen=True)
class Sinusoids(Block):
    """A table of sinusoids that a class computes and keeps on the device, but does not store (M2M-100)."""

    rows: int
    size: int
    kind: str = "position_embedding"

    @property
    def parts(self) -> Parts:
        """Nothing is stored: a program makes the buffer."""
        return {}


@dataclass(frozen=True)
class Head(Block):
    """The output projection onto the vocabulary. Tied: the weight is the embedding's own, nothing is stored.

    `scaled`: logits are multiplied by a number; `softcap`: they are bounded by a tanh.
    """

    hidden_size: int
    vocab_size: int
    tied: bool = False
    bias: bool = False
    scaled: bool = False
    softcap: bool = False
    kind: str = "lm_head"

    @property
    def parts(self) -> Parts:
        """Weight unless tied; bias if any."""
        return {
            "weight": None if self.tied else Tensor((self.vocab_size, self.hidden_size), "head"),
            "bias": Tensor((self.vocab_size,), "bias") if self.bias else None,
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror nn.Linear.forward, of a head with a weight of its own."""
        from oomph import ops

        return ops.linear(x, m.weight, m.parts["bias"])


@dataclass(frozen=True)
class Classifier(Head):
    """The map onto classes on top of a decoder; `padded` says whether its config names a padding token."""

    padded: bool = False


@dataclass(frozen=True)
class Dropout(Block):
    """nn.Dropout: no parameters, but a mask to keep while training."""

    rate: float

    @property
    def parts(self) -> Parts:
        """Nothing."""
        return {}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror nn.Dropout.forward."""
        from oomph import ops

        return ops.dropout(x, m.rate)


@dataclass(frozen=True)
class Conv(Block):
    """A convolution: kernel (out, in / groups, *size) and bias; padded for a result at every `stride`-th place."""

    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    groups: int = 1
    bias: bool = False
    stride: int = 1

    @property
    def parts(self) -> Parts:
        """Kernel and, if any, bias."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.size)
        return {
            "weight": Tensor(shape, "conv"),
            "bias": Tensor((self.out_channels,), "bias") if self.bias else None,
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror nn.Conv1d.forward."""
        from oomph import ops

        if len(m.size) > 1:
            raise UnsupportedError("oomph plays convolutions along one axis only.", "Trace the model: oomph trace.")
        return ops.conv1d(x, m.weight, m.parts["bias"], m.weight.shape[2] // 2, m.stride)
