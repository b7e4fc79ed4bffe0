"""A frozen base quantised by bitsandbytes while it is loaded: what QLoRA puts adapters on.

Effect: linear maps keep codes and scales instead of a weight; every use dequantises one weight for a moment. Cost:
what `formats/bitsandbytes.py` stores. Source: bitsandbytes 0.50, nn/modules.py; PEFT 0.21, utils/other.py,
prepare_model_for_kbit_training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, Parts, rewritten
from oomph.blocks.basic import Linear
from oomph.blocks.moe import StackedExperts
from oomph.formats.linear import Matrix
from oomph.methods.quantised import Base, stored_tensor
from oomph.tensor import BUFFERS, Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

HALF = frozenset({"bf16", "fp16"})
TABLES = ("embedding", "head")
LEFT_AS_LOADED = ("gptq", "hqq", "aqlm", "torchao")  # methods whose models PEFT's preparation casts nothing of


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob | Base) -> Linear:
    """Return bitsandbytes' map in the place of a linear map; `stored` are its codes and scales."""
    loaded = _loaded(job)
    if job.quantization == "int8":
        bias = "fp32" if job.kbit_preparation else loaded
        return Linear8bit(
            block.in_features, block.out_features, block.bias, block.role, stored=stored, bias_dtype=bias
        )  # fmt: skip
    compute = job.precision.removeprefix("amp-")
    bias = compute if job.steady else "fp32" if job.kbit_preparation else loaded
    return Linear4bit(
        block.in_features, block.out_features, block.bias, block.role,
        stored=stored, loaded=loaded, compute=compute, bias_dtype=bias,
        unfused=isinstance(job, Base) and job.release != "5",
    )  # fmt: skip


def _loaded(job: TrainJob | Base) -> str:
    """Return the dtype that a base is loaded in before it is quantised."""
    return job.precision.removeprefix("amp-") if job.kbit_preparation else job.weight_dtype


def quantised_stacks(block: StackedExperts, job: TrainJob | Base) -> QuantisedExperts:
    """Return stacked experts with codes and scales in the place of their weights; what else they hold stays."""
    from oomph.formats.bitsandbytes import FourBit

    scheme, loaded = FourBit(nested=job.quantization.endswith("-dq")), _loaded(job)
    parts: dict[str, Part] = {}
    for name, part in block.parts.items():
        if name not in block.names or not isinstance(part, Tensor):
            parts[name] = part
            continue
        experts, rows, columns = part.shape
        for one in scheme.tensors(Matrix(name, experts * rows, columns, 1, loaded)):
            suffix, tensor = stored_tensor(one, name)
            parts[name if suffix == "weight" else f"{name}.{suffix}"] = tensor
    own = {field.name: getattr(block, field.name) for field in fields(StackedExperts)}
    return QuantisedExperts(**own, stored=parts, loaded=loaded)


def prepared(model: Model, job: TrainJob) -> Model:
    """Return the model as prepare_model_for_kbit_training leaves it: what is 16 bits wide and not quantised is fp32."""
    if job.weight_dtype not in HALF or job.quantization.startswith(LEFT_AS_LOADED):
        return model

    def change(path: str, part: Part) -> Part:
        if job.narrow_tables and isinstance(part, Tensor) and part.role in TABLES:
            return part  # TRL's peft_module_casting_to_bf16
        if isinstance(part, Tensor) and part.role not in BUFFERS and (part.dtype is None or part.dtype in HALF):
            return replace(part, dtype="fp32")
        return part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


@dataclass(frozen=True, eq=False)
class Linear4bit(Linear):
    """bnb.nn.Linear4bit: packed codes with their scales. `loaded` is the dtype the weight was quantised from and is
    dequantised to, `compute` the one inputs are brought to, and the bias for good when it is first used. `unfused`: by
    bitsandbytes before 0.50, `keeps_inputs`: before 0.43, whatever the job says.
    """

    stored: Mapping[str, Tensor] = field(default_factory=dict)
    loaded: str = "bf16"
    compute: str = "bf16"
    bias_dtype: str = "bf16"
    unfused: bool = False
    keeps_inputs: bool = False

    @property
    def parts(self) -> Parts:
        """Codes, scales and, if any, bias."""
        return {**self.stored, "bias": Tensor((self.out_features,), "bias", self.bias_dtype) if self.bias else None}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror Linear4bit.forward."""
        from oomph import ops
        from oomph.ops.quantised import FourBitWeight, matmul_4bit, set_dtype

        inp_dtype = x.dtype
        x = ops.cast(x, m.compute)
        bias = m.parts["bias"]
        if bias is not None:
            set_dtype(bias, x.dtype)
        weight = FourBitWeight((m.out_features, m.in_features), m["weight.absmax"], m.loaded, m.unfused, m.keeps_inputs)
        return ops.cast(matmul_4bit(x, weight, bias), inp_dtype)


@dataclass(frozen=True, eq=False)
class Linear8bit(Linear):
    """bnb.nn.Linear8bitLt: codes with a scale for each row; the bias takes the input's dtype for good."""

    stored: Mapping[str, Tensor] = field(default_factory=dict)
    bias_dtype: str = "bf16"

    @property
    def parts(self) -> Parts:
        """Codes, scales and, if any, bias."""
        return {**self.stored, "bias": Tensor((self.out_features,), "bias", self.bias_dtype) if self.bias else None}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror Linear8bitLt.forward."""
        from oomph.ops.int8 import Int8Weight, matmul_8bit
        from oomph.ops.quantised import set_dtype

        bias = m.parts["bias"]
        if bias is not None:
            set_dtype(bias, x.dtype)
        return matmul_8bit(x, Int8Weight(m["weight"], m["SCB"]), bias)


@dataclass(frozen=True)
class QuantisedExperts(StackedExperts):
    """Stacked experts whose weights bitsandbytes keeps packed: unpacked whole at first use, until their forward is over
    and, as matrix products save what they multiply with, as long as the graph. `loaded` is what they unpack to.

    Source: bitsandbytes 0.50, nn/parametrize.py, replace_parameter_4bit; torch.nn.utils.parametrize's cache.
    """

    stored: Mapping[str, Part] = field(default_factory=dict)
    loaded: str = "bf16"

    @property
    def parts(self) -> Parts:
        """Codes, scales and, if any, biases."""
        return self.stored

    @staticmethod
    def program(m: Bound, hidden_states: Sym, top_k_index: Sym | None = None, top_k_weights: Sym | None = None) -> Sym:
        """Mirror the experts' forward with the hooks around it, which empty the cache in any case."""
        for name in m.names:
            m.parametrized[name] = partial(_unpacked, m, name)
        try:
            return StackedExperts.program(m, hidden_states, top_k_index, top_k_weights)
        finally:
            m.made.clear()


def _unpacked(m: Bound, name: str, codes: Sym) -> Sym:
    """Mirror Bnb4bitParametrization.forward."""
    from oomph.ops.quantised import FourBitWeight, dequantise_4bit

    return dequantise_4bit(m.tape, FourBitWeight(m.shapes[name], m[f"{name}.weight.absmax"], m.loaded))
