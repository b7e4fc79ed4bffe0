"""How vLLM holds a stored weight where it differs from the checkpoint: padded for a kernel, scales widened, copies.

Source: model_executor/layers/fused_moe/oracle/mxfp4.py, model_loader/bitsandbytes_loader.py,
layers/attention/mla_attention.py, third_party/triton_kernels/tensor_details/ of vLLM 0.19.0; quantization/mxfp4.py of
0.10.2, 0.12.0 and 0.15.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Literal

from oomph.engines.tensor_parallel import module_of, reshaped
from oomph.formats.base import Stored, stored
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.engines.vllm.job import Version
    from oomph.formats.base import Format
    from oomph.model import Model

PLAIN = frozenset({"bf16", "fp16", "fp32"})
Kernel = Literal["marlin", "triton", "triton before 0.19"]
MXFP4_HIDDEN, MXFP4_INNER = 256, 128  # Marlin's multiples of the hidden and of a device's inner size of MXFP4 experts
TRITON_INNER = 64  # of the inner size alone, where Triton's kernels run
TRITON_WHEELS, TRITON_PADS = (0, 12, 0), (0, 19, 0)  # wheels bring the kernels; values are padded first (read 0.15)
TRITON_MXFP4 = ((9, 0), (11, 0))  # compute capabilities at which they run MXFP4 experts
MARLIN_HIDDEN, MARLIN_INNER, FEW = 128, 64, 16
MORE_MARLIN = (0, 9, 0)  # from here on Marlin's kernel runs packed experts wherever it can
ABSORBED, NOT_ABSORBED = (0, 7, 1), (0, 8, 0)  # versions that absorb maps of latent attention (read 0.7.3, 0.8.5)
VALUES_BEFORE = (16, 32)  # what swizzling needs
# To what their layouts pad rows and columns: hopper_{value,scale}.py.
HOPPER_VALUES, HOPPER_SCALES, HOPPER_PAIR = 64, 256, 2
NESTED = (".nested_absmax", ".nested_quant_map", ".nested_offset")
ABSMAX = ".absmax"


def held(
    weight: Weight,
    fmt: Format,
    model: Model,
    kernel: Kernel = "marlin",
    nested: bool = False,
    absorbs: bool = False,
    few_marlin: bool = False,
) -> Sequence[Stored]:
    """Return the tensors that a device holds for its part of a weight; `nested` leaves scales of scales as they are.

    `absorbs`: queries' and outputs' maps lie there once more, multiplied with those of latent keys and values.
    `few_marlin`: Marlin's kernel is taken for less than 16 experts in 16 bits of FP16 alone.
    """
    if weight.role == "expert" and fmt.name == "mxfp4":
        if kernel != "marlin":
            values = VALUES_BEFORE if kernel == "triton before 0.19" else (HOPPER_VALUES, HOPPER_VALUES)
            return _for_hopper(fmt.store(_padded(weight, 1, TRITON_INNER), model), values)
        weight = _padded(weight, MXFP4_HIDDEN, MXFP4_INNER)
    kept = fmt.store(weight, model)
    if absorbs:
        kept = (*kept, *_absorbed(weight, kept[0].dtype, fmt.rest, model))
    if kept[0].dtype in PLAIN:
        return kept
    if weight.role == "expert" and any(each.name.endswith(".weight_packed") for each in kept):
        kept = (*kept, *_order_kept(weight, kept, fmt.rest, few_marlin))
    # _dequantize_dq: scales of scales are multiplied out
    if not nested and any(each.name.endswith(NESTED) for each in kept):
        kept = [_widened(each) for each in kept if not each.name.endswith(NESTED)]
    if module_of(weight)[0] == "kv_b_proj":  # W_UK and W_UV, in the dtype of activations
        kept = (*kept, stored(f"{weight.name}.absorbed", weight.shape, fmt.rest, weight.copies))
    return kept


def mxfp4_kernel(device: Device | None, release: Version) -> Kernel:
    """Return the kernel that MXFP4 experts are laid out for: Triton's from Hopper to Blackwell's B200, else Marlin's.

    Wheels before 0.12 have no Triton kernels: Marlin's ran where nobody installed them beside.

    >>> from oomph.devices import find
    >>> [mxfp4_kernel(find(name), (0, 19, 0)) for name in ("a100-80gb", "h100", "b200", "rtx-5090")]
    ['marlin', 'triton', 'triton', 'marlin']
    >>> [mxfp4_kernel(find("h100"), release) for release in ((0, 10, 1), (0, 14, 1))]
    ['marlin', 'triton before 0.19']
    """
    low, high = TRITON_MXFP4
    capability = device.capability if device else None
    if capability is None or not low <= capability < high or release < TRITON_WHEELS:
        return "marlin"
    return "triton" if release >= TRITON_PADS else "triton before 0.19"


def _order_kept(weight: Weight, kept: Sequence[Stored], rest: str, few_marlin: bool) -> list[Stored]:
    """Return the orders of inputs that compressed-tensors' experts keep where Marlin's kernel does not run them.

    Two of a down projection, and of gate and up together. Source: CompressedTensorsWNA16MoEMethod
    and check_moe_marlin_supports_layer of vLLM 0.8.5, 0.9.0 and 0.19.0.
    """
    down = module_of(weight)[0] in ("down_proj", "w2")
    rows, into = weight.shape
    hidden, inner = (rows, into) if down else (into, rows)
    scales = next((each for each in kept if each.name.endswith(".weight_scale")), None)
    group = into // scales.shape[1] if scales and len(scales.shape) > 1 else into
    runs = hidden % MARLIN_HIDDEN == 0 and inner % max(MARLIN_INNER, group if group < into else 0) == 0
    if few_marlin and (len(weight.places[-1]) >= FEW or rest != "fp16"):
        runs = False
    return [] if runs else [stored(f"{weight.name}.orders", ((2 if down else 1) * into,), "int32", weight.copies)]


def _absorbed(weight: Weight, dtype: str, rest: str, model: Model) -> list[Stored]:
    """Return what 0.7 makes of a map beside latent attention: W_Q_UK and W_QR, or W_UV_O; in FP8 where the map is.

    Source: attention/backends/mla/utils.py of vLLM 0.7.3, VLLM_MLA_PERFORM_MATRIX_ABSORPTION.
    """
    whole = {module_of(each)[0]: each.shape for each in model.weights if each.kind == "attention"}
    keys, latent = whole.get("kv_b_proj"), whole.get("kv_a_proj_with_mqa")
    queries = "q_b_proj" if "q_b_proj" in whole else "q_proj"
    name = module_of(weight)[0]
    if keys is None or latent is None or name not in (queries, "o_proj"):
        return []
    rank, values, turned = keys[1], whole["o_proj"][1], latent[0] - keys[1]
    heads = (whole[queries][0] - (keys[0] - values)) // turned
    held_dtype = dtype if dtype.startswith("fp8") else rest
    if name == "o_proj":
        mine = heads * weight.shape[1] // values
        return [stored(f"{weight.name}.absorbed", (weight.shape[0], mine * rank), held_dtype, weight.copies)]
    mine, into = heads * weight.shape[0] // whole[queries][0], weight.shape[1]
    return [
        stored(f"{weight.name}.absorbed", (mine * rank, into), held_dtype, weight.copies),
        stored(f"{weight.name}.turned", (mine * turned, into), rest, weight.copies),
    ]


def _padded(weight: Weight, hidden: int, inner: int) -> Weight:
    """Return an expert's matrix with both sides multiples; a down projection has its sides the other way round."""
    halves = 2 if "gate_up" in weight.name else 1
    down = module_of(weight)[0] == "down_proj"
    for axis, size in enumerate(weight.shape):
        parts, to = (halves, inner) if (axis == 1) == down else (1, hidden)
        weight = reshaped(weight, axis, -(-size // (parts * to)) * parts * to)
    return weight


def _for_hopper(kept: Sequence[Stored], values: tuple[int, int]) -> list[Stored]:
    """Return blocks and scales of experts as Triton's kernels read them; the scales as loaded stay beside them.

    >>> blocks, scales = stored("blocks", (2880, 90, 16), "uint8"), stored("scales", (2880, 90), "uint8")
    >>> [each.shape for each in _for_hopper([blocks, scales], (64, 64))]
    [(2880, 1472), (3072, 90), (2880, 90)]
    """
    found: list[Stored] = []
    for each in kept:
        rows, columns = each.shape[0], prod(each.shape[1:])
        is_scale = len(each.shape) == 2
        to_rows, to_columns = (HOPPER_SCALES, HOPPER_PAIR) if is_scale else values
        shape = (-(-rows // to_rows) * to_rows, -(-columns // to_columns) * to_columns)
        found.append(stored(each.name, shape, each.dtype, each.copies))
        if is_scale:
            found.append(stored(f"{each.name}.loaded", each.shape, each.dtype, each.copies))
    return found


def _widened(each: Stored) -> Stored:
    return stored(each.name, each.shape, "fp32", each.copies) if each.name.endswith(ABSMAX) else replace(each)
