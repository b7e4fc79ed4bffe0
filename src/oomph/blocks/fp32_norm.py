"""RMSNorm that is cast back after the scale, not before it (gpt-oss)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.basic import EPSILON, Norm

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class Fp32Norm(Norm):
    """RMSNorm whose scale is applied in fp32: the normed states are kept in fp32 for the scale's gradient."""

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror GptOssRMSNorm.forward."""
        from oomph import ops

        input_dtype = hidden_states.dtype
        hidden_states = ops.cast(hidden_states, "fp32")
        variance = ops.mean(ops.power(hidden_states))
        hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
        weight: Sym = m.weight
        return ops.cast(weight * hidden_states, input_dtype)
