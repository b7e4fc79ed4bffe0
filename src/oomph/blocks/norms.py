"""How each kind of norm is computed, which decides what it keeps: `Norm.style` names the kind.

A norm written out in Python keeps every factor of its products; only torch's own LayerNorm is one kernel. The epsilons
change no byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

EPSILON = 1e-6


def rms(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror LlamaRMSNorm.forward: the scale is applied in the input's dtype."""
    from oomph import ops

    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    weight: Sym = m.weight
    return weight * ops.cast(hidden_states, input_dtype)


def rms_bare(m: Bound, x: Sym) -> Sym:
    """Mirror FalconMambaWeightlessRMSNorm.forward: no scale."""
    from oomph import ops

    return ops.cast(_normed(ops.cast(x, "fp32")), x.dtype)


def rms_in_fp32(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Olmo2RMSNorm.forward: the scale is applied in fp32."""
    from oomph import ops

    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    weight: Sym = m.weight
    return ops.cast(weight * hidden_states, input_dtype)


def rms_mixed(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror the RMSNorm of Baichuan 2: only the mean of squares is taken in fp32, which the product then has too."""
    from oomph import ops

    variance = ops.mean(ops.power(ops.cast(hidden_states, "fp32")))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    weight: Sym = m.weight
    if weight.dtype != "fp32":
        hidden_states = ops.cast(hidden_states, weight.dtype)
    return weight * hidden_states


def rms_cast_first(m: Bound, hidden: Sym) -> Sym:
    """Mirror MiniCPM's rms_layernorm: the mean of squares is taken in fp32, the product is cast back, then scaled."""
    from oomph import ops

    old_dtype = hidden.dtype
    variance = ops.mean(ops.power(ops.cast(hidden, "fp32")))
    hidden = ops.cast(hidden * ops.rsqrt(variance + EPSILON), old_dtype)
    weight: Sym = m.weight
    return hidden * weight


def rms_glm(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror the RMSNorm of ChatGLM: only the mean of squares is taken of an fp32 copy, all else in fp32 after that."""
    from oomph import ops

    input_dtype = hidden_states.dtype
    variance = ops.mean(ops.power(ops.cast(hidden_states, "fp32")))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    weight: Sym = m.weight
    return ops.cast(weight * hidden_states, input_dtype)


def rms_all_fp32(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror HeliumRMSNorm.forward: the scale is cast to fp32 and applied there."""
    from oomph import ops

    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    return ops.cast(ops.cast(m.weight, "fp32") * hidden_states, input_dtype)


def rms_plus_one(m: Bound, x: Sym) -> Sym:
    """Mirror GemmaRMSNorm.forward: the scale is 1 + weight, in fp32."""
    from oomph import ops

    output = _normed(ops.cast(x, "fp32"))
    output = output * (1.0 + ops.cast(m.weight, "fp32"))
    return ops.cast(output, x.dtype)


def _normed(x: Sym) -> Sym:
    """Mirror GemmaRMSNorm._norm."""
    from oomph import ops

    return x * ops.rsqrt(ops.mean(ops.power(x)) + EPSILON)


def rms_by_power(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Gemma4RMSNorm.forward: a power instead of a root, the scale in fp32."""
    from oomph import ops

    normed_output = _normed_by_power(ops.cast(hidden_states, "fp32"))
    normed_output = normed_output * ops.cast(m.weight, "fp32")
    return ops.cast(normed_output, hidden_states.dtype)


def rms_by_power_bare(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror Gemma4RMSNorm.forward without a scale."""
    from oomph import ops

    return ops.cast(_normed_by_power(ops.cast(hidden_states, "fp32")), hidden_states.dtype)


def _normed_by_power(hidden_states: Sym) -> Sym:
    """Mirror Gemma4RMSNorm._norm."""
    from oomph import ops

    mean_squared = ops.mean(ops.power(hidden_states)) + EPSILON
    return hidden_states * ops.power(mean_squared)


def rms_in_a_line(m: Bound, x: Sym) -> Sym:
    """Mirror the RMSNorm of the first Qwen."""
    from oomph import ops

    output = ops.cast(_normed(ops.cast(x, "fp32")), x.dtype)
    weight: Sym = m.weight
    return output * weight


def l2(m: Bound, x: Sym) -> Sym:
    """Mirror Llama4TextL2Norm.forward, which has no parameters."""
    from oomph import ops

    return ops.cast(_normed(ops.cast(x, "fp32")), x.dtype)


def layer(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror nn.LayerNorm.forward."""
    from oomph import ops

    return ops.layer_norm(hidden_states, m.parts["weight"], m.parts["bias"])


def layer_in_fp32(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror OlmoLayerNorm.forward, which has no parameters."""
    from oomph import ops

    orig_dtype = hidden_states.dtype
    return ops.cast(ops.layer_norm(ops.cast(hidden_states, "fp32"), None, None), orig_dtype)


def layer_written_out(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror CohereLayerNorm.forward: a LayerNorm without bias, in fp32, operation by operation."""
    from oomph import ops

    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    mean = ops.mean(hidden_states)
    variance = ops.mean(ops.power(hidden_states - mean))
    hidden_states = (hidden_states - mean) * ops.rsqrt(variance + EPSILON)
    hidden_states = ops.cast(m.weight, "fp32") * hidden_states
    return ops.cast(hidden_states, input_dtype)


def layer_plus_one(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror NemotronLayerNorm1P.forward: the scale is 1 + weight; under autocast all is cast, and autocast is off.

    The class asks whether CUDA's autocast is on, which a CPU's is not.
    """
    from oomph import ops

    tape = m.tape
    weight, bias = m.weight + 1.0, m.bias
    if tape.autocast is not None and tape.on == "gpu":
        dtype = tape.autocast.dtype
        hidden_states, weight, bias = (ops.cast(one, dtype) for one in (hidden_states, weight, bias))
    with tape.without_autocast():
        return ops.layer_norm(hidden_states, weight, bias)


def liger(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror LigerRMSNorm.forward."""
    from oomph import ops

    return ops.liger_rms_norm(hidden_states, m.weight)


def liger_kept(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror LigerRMSNorm.forward where its gradient is not written over the incoming one."""
    from oomph import ops

    return ops.liger_rms_norm(hidden_states, m.weight, in_place=False)


def foak(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror fast_rms_layernorm of fms-acceleration."""
    from oomph import ops

    return ops.unsloth_rms_norm(hidden_states, m.weight)


def unsloth(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror fast_rms_layernorm of Unsloth as a decoder calls it."""
    from oomph import ops

    return ops.unsloth_norm(hidden_states, m.weight)


STYLES: dict[str, Callable[[Bound, Sym], Sym]] = {
    "rms": rms,
    "rms bare": rms_bare,
    "rms in fp32": rms_in_fp32,
    "rms mixed": rms_mixed,
    "rms cast first": rms_cast_first,
    "rms glm": rms_glm,
    "rms in a line": rms_in_a_line,
    "rms all fp32": rms_all_fp32,
    "rms plus one": rms_plus_one,
    "rms by power": rms_by_power,
    "rms by power bare": rms_by_power_bare,
    "l2": l2,
    "layer": layer,
    "layer in fp32": layer_in_fp32,
    "layer written out": layer_written_out,
    "layer plus one": layer_plus_one,
    "liger": liger,
    "liger kept": liger_kept,
    "foak": foak,
    "unsloth": unsloth,
}
