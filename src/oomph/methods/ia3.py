"""IA³: a vector that scales what a map returns, or in the feed-forward part what goes in; nothing else trains.

Effect: one number for each output of the targeted maps in attention, one for each input of those in the feed-forward
part. Cost: each keeps the tensor it scales, for the vector's gradient, and casts it where the vector is fp32. Source:
PEFT 0.21, tuners/ia3/layer.py, tuners/ia3/bnb.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Part, Parts
from oomph.errors import UnsupportedError
from oomph.methods.bitsandbytes import Linear4bit, Linear8bit
from oomph.methods.lora import adapter_dtype, features
from oomph.methods.quantised import PackedLinear
from oomph.methods.targets import inner, matches, names_of, split, wrap_targets
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

# TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING of PEFT 0.21 and the one of feed-forward modules, for the models
# that are played.
QUERY_AND_VALUE = ("gemma", "gemma2", "gemma3_text", "qwen2", "qwen3")
IA3_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(QUERY_AND_VALUE, ("q_proj", "v_proj", "down_proj")),
    **dict.fromkeys(("llama", "mistral"), ("k_proj", "v_proj", "down_proj")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn", "mlp.c_proj")),
    **dict.fromkeys(("falcon", "gpt_neox"), ("query_key_value", "dense_4h_to_h")),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "phi": ("q_proj", "v_proj", "fc2"),
}
FEEDFORWARD: dict[str, tuple[str, ...]] = {kind: names[-1:] for kind, names in IA3_TARGETS.items()}


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with a vector beside each targeted map, all else frozen."""
    names = names_of(model, job, IA3_TARGETS)
    feedforward = FEEDFORWARD.get(model.model_type)
    if feedforward is None:
        raise UnsupportedError(f"PEFT knows no feed-forward modules of {model.model_type}.", "Take --method lora.")

    def wrap(path: str, base: Part) -> Block:
        block = inner(base)
        if isinstance(block, PackedLinear):
            raise UnsupportedError("PEFT has no IA3 on a GPTQ base.", "Take --method lora.")
        kind = Ia3LinearBnb if isinstance(block, (Linear4bit, Linear8bit)) else Ia3Linear
        return kind(
            base, *features(base), adapter_dtype(job), matches(path, feedforward), isinstance(block, Linear4bit)
        )

    return wrap_targets(model, names, wrap, split(job.modules_to_save))


@dataclass(frozen=True, eq=False)
class Ia3Linear(Block):
    """A linear map with a vector, [1, in] if it scales the input, else [out, 1], in `dtype` (None: the job's)."""

    base: Part
    in_features: int
    out_features: int
    dtype: str | None
    is_feedforward: bool
    clones: bool = False

    @property
    def parts(self) -> Parts:
        """The wrapped map and the vector."""
        shape = (1, self.in_features) if self.is_feedforward else (self.out_features, 1)
        return {"base_layer": self.base, "ia3_l": Tensor(shape, "param", self.dtype)}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror ia3.Linear.forward."""
        from oomph import ops

        previous_dtype = x.dtype
        ia3_scaling = scaling(m)
        if m.is_feedforward:
            x = ops.cast(x, ia3_scaling.dtype)
            interm = ops.cast(x * ia3_scaling, previous_dtype)
            result: Sym = m.base_layer(interm)
        else:
            result = m.base_layer(x)
            result = ops.cast(result * ia3_scaling, result.dtype)
        return result


def scaling(m: Bound) -> Sym:
    """Return the vector as one axis, times the scaling of adapters before it, which is 1."""
    from oomph import ops

    width = m.in_features if m.is_feedforward else m.out_features
    return ops.view(m.ia3_l, (width,)) * 1.0


@dataclass(frozen=True, eq=False)
class Ia3LinearBnb(Ia3Linear):
    """The same beside a map of bitsandbytes; the result of a 4-bit one is copied."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror ia3.bnb.Linear8bitLt.forward and Linear4bit.forward."""
        from oomph import ops

        ia3_scaling = scaling(m)
        requires_conversion = m.tape.autocast is None and x.dtype != "fp32"
        if requires_conversion:
            x = ops.cast(x, "fp32")
        if m.is_feedforward:
            result: Sym = m.base_layer(x * ia3_scaling)
            expected_dtype = result.dtype
        else:
            result = m.base_layer(x)
            expected_dtype = result.dtype
            result = result * ia3_scaling
        if m.clones:
            result = ops.clone(result)
        if requires_conversion:
            result = ops.cast(result, expected_dtype)
        return result
