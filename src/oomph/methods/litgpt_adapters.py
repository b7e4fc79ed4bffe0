"""What LitGPT puts in the place of linear maps: LoRA, also for the fused map of query, key and value, and adapter v2.

Effect: only adapters train (and norms, with adapter v2). Cost: an adapter's input, dropped, and its mask; of a map that
is adapted in part, indices and a padded result. Source: litgpt 0.5.13 and of 2024, lora.py, adapter_v2.py; lit-gpt
0cc02afa, lit_gpt/lora.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.blocks.basic import Dropout, Linear
from oomph.blocks.litgpt import Release
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sizes import Size
    from oomph.tape.sym import Sym

SCALING = 2.0  # lora_alpha / r; no byte depends on it


def _called(operation: Callable[[Sym, Sym], Sym], *arguments: Sym) -> Sym:
    """Return operation(*arguments), which live until it returns, as operands do on Python's stack."""
    return operation(*arguments)


@dataclass(frozen=True, eq=False)
class LoRALinear(Block):
    """A linear map with A [rank, in] and B [out, rank] beside it."""

    linear: Linear
    rank: int
    rate: float

    @property
    def parts(self) -> Parts:
        """The adapter, the map, the dropout."""
        return {
            "lora_A": Tensor((self.rank, self.linear.in_features), "param"),
            "lora_B": Tensor((self.linear.out_features, self.rank), "param"),
            "linear": self.linear,
            "lora_dropout": Dropout(self.rate),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LoRALinear.forward."""
        from oomph import ops

        pretrained: Sym = m.linear(x)
        lora = _called(ops.linear_unfused, _called(ops.linear_unfused, m.lora_dropout(x), m.lora_A), m.lora_B) * SCALING
        return pretrained + lora


@dataclass(frozen=True, eq=False)
class LoRAQKVLinear(Block):
    """The fused map with an adapter for some of query, key and value, `widths` of them wide; `total` if for all.

    A holds the maps of all of them, one behind the other; B is a grouped convolution, or one for each where widths
    differ (`alike` False).
    """

    linear: Linear
    rank: int
    rate: float
    widths: tuple[int, ...]
    alike: bool
    total: bool
    release: Release

    @property
    def parts(self) -> Parts:
        """The adapter, the map, the dropout."""
        return {
            "lora_A": Tensor((self.rank * len(self.widths), self.linear.in_features), "param"),
            "lora_B": Tensor((sum(self.widths), self.rank), "param"),
            "linear": self.linear,
            "lora_dropout": Dropout(self.rate),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LoRAQKVLinear.forward."""
        from oomph import ops

        pretrained: Sym = m.linear(x)
        after_A = _called(ops.linear, m.lora_dropout(x), m.lora_A)  # noqa: N806  the class's own name
        after_B = ops.transpose(  # noqa: N806
            _conv1d(m, ops.transpose(after_A, 1, 2), ops.unsqueeze(m.lora_B, 2)), 1, 2
        )
        lora = _zero_pad(m, after_B, pretrained.shape[-1]) * SCALING
        return pretrained + lora


def _conv1d(m: Bound, x: Sym, weight: Sym) -> Sym:
    """Mirror LoRAQKVLinear.conv1d: [B, n·rank, T] to [B, widths, T]."""
    from oomph import ops

    if m.alike:
        return ops.conv1d(x, weight)
    input_splitted = ops.split_axis(x, 1, (m.rank,) * len(m.widths))
    weight_splitted = ops.split_axis(weight, 0, m.widths)
    return ops.cat([ops.conv1d(a, b) for a, b in zip(input_splitted, weight_splitted, strict=True)], 1)


def _zero_pad(m: Bound, x: Sym, width: Size) -> Sym:
    """Mirror LoRAQKVLinear.zero_pad: [B, T, widths] to [B, T, width], nothing to do where all are adapted."""
    from oomph import ops

    if m.total:
        return x
    batch, length, channels = x.shape
    if m.release.indices == "anew":
        x = ops.transpose(x, 0, 1)
        result = x.tape.empty((length * batch, width), x.dtype, op="new_zeros")
        index = x.tape.empty((channels,), "int64", op="lift_fresh")
        result = ops.index_copy(result, index, ops.view(x, (length * batch, channels)), in_place=False)
        return ops.transpose(ops.view(result, (length, batch, width)), 0, 1)
    result = x.tape.empty((batch, length, width), x.dtype, op="new_zeros")
    kept = m.parts["lora_ind"]
    return ops.index_copy(result, ops.clone(kept) if m.release.indices == "copied" else kept, x, in_place=True)


@dataclass(frozen=True, eq=False)
class AdapterV2Linear(Block):
    """A frozen linear map, whose output is shifted and scaled by vectors that train."""

    linear: Linear

    @property
    def parts(self) -> Parts:
        """Shift, scale and the map."""
        width = self.linear.out_features
        return {
            "adapter_bias": Tensor((width,), "bias"),
            "adapter_scale": Tensor((width,), "param"),
            "linear": self.linear,
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror AdapterV2Linear.forward."""
        scaled: Sym = m.adapter_scale * (m.linear(x) + m.adapter_bias)
        return scaled


@dataclass(frozen=True)
class StableEmbedding(Block):
    """bitsandbytes' embedding with a norm behind it, which LitGPT puts in the place of a quantised model's own.

    It is made after all else was frozen and after the optimizer, so that its table and norm get gradients which nobody
    uses or frees, and the old table stays in a variable. Source: litgpt 0.5.13, finetune/lora.py, main; bitsandbytes
    0.50, nn/modules.py, StableEmbedding.
    """

    rows: int
    size: int
    scaled: bool = False
    kind: str = "embedding"

    @property
    def parts(self) -> Parts:
        """The table, the norm, and the table it replaced."""
        table = Tensor((self.rows, self.size), "embedding")
        norm = {"weight": Tensor((self.size,), "norm"), "bias": Tensor((self.size,), "bias")}
        return {
            "weight": table,
            **{f"norm_{name}": each for name, each in norm.items()},
            "old_embedding": Tensor(table.shape, "embedding", trains=False),
        }

    @staticmethod
    def program(m: Bound, ids: Sym) -> Sym:
        """Mirror StableEmbedding.forward."""
        from oomph import ops

        emb = ops.embedding(m.weight, ids)
        return ops.cast(ops.layer_norm(emb, m.norm_weight, m.norm_bias), m.weight.dtype)
