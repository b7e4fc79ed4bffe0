"""AdamW under DeepSpeed's ZeRO stages 1 and 2 on one GPU: fp32 copies of what trains, buckets that gradients go to.

Nothing is divided among GPUs here, but all the tensors are there, each laid flat for all parameters: 16-bit weights,
of which the model's become views, fp32 copies and moments; in a step the gradients once more in 16 bits and in fp32.
The optimizer is in place, as DeepSpeed's FusedAdam and torch's fused AdamW are. With the optimizer offloaded, copies
and moments are in the machine's memory and gradients go there one by one. What trains is one group; a second one for
what has no weight decay would be a little less in a step. Source: DeepSpeed 0.12 to 0.19,
runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer; ops/adam/fused_adam.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast
from oomph.ops.indexing import view
from oomph.ops.kernel import run
from oomph.optimizers.settings import Settings
from oomph.tape.autograd import like
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer

STATES = "within"
ALIGNMENT = 2  # elements, so that a flat tensor of 16 bits ends at 4 bytes (nccl_start_alignment_factor)
ALL = "all that trains"  # what flat tensors are named for
REDUCED, REDUCED_HERE = "grads_in_partition", "averaged_gradients"  # on the stream that reduces, and on the first one


def flattened(parameters: Sequence[Sym], elements: Size, on_host: bool) -> list[Sym]:
    """Return all that trains as one flat tensor, of which parameters become views, and, unless it is kept on the host,
    its copy in fp32; the 16-bit tensor is cloned before it is cast, and a gradient of zeros is there for a moment.

    Source: runtime/zero/stage_1_and_2.py, __init__, flatten_dense_tensors_aligned, initialize_optimizer_states.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: flattened([one], 1024, False), frozen(4, 256)).allocated  # 2, 2, 4 and 4 bytes of each
    12288
    """
    first = parameters[0]
    flat = new(first.tape, (elements,), first.dtype, op="flatten")
    first.tape.recorder.name(flat.storage.ordinal, ALL, "parameter")
    for one in parameters:
        one.storage = flat.storage
    if on_host:
        return [flat]
    copy = like(flat, flat.dtype, "clone")
    if copy.dtype != "fp32":
        copy = like(copy, "fp32", "fp32_partition")
    like(copy, "fp32", "zeros")
    return [flat, copy]


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq of the flat fp32 copy, 8 bytes for each element.

    Source: ops/adam/fused_adam.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda one: state(named("adamw"), one), fp32(1024)).allocated
    8192
    """
    return [like(parameter, "fp32", op) for op in ("exp_avg", "exp_avg_sq")]


def buckets(elements: Size, dtype: str, parameter: Sym, overlap: bool) -> list[Sym]:
    """Return the buffers that gradients are copied to before they are reduced: one, or with overlap_comm two.

    Source: runtime/zero/stage_1_and_2.py, setup_buckets.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: buckets(1000, "bf16", one, True), frozen(4, 256)).allocated
    4000
    """
    return [new(parameter.tape, (elements,), dtype, op="ipg_buffer") for _ in range(2 if overlap else 1)]


def partition(elements: Size, parameter: Sym, overlap: bool) -> Sym:
    """Return the flat tensor that reduced gradients are copied to; with overlap_comm it is made on another stream.

    Source: runtime/zero/stage_1_and_2.py, copy_grads_in_partition.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: partition(1024, one, False), frozen(4, 256)).allocated
    2048
    """
    return new(parameter.tape, (elements,), parameter.dtype, op=REDUCED if overlap else REDUCED_HERE)


def check(gradient: Sym) -> None:
    """Look for numbers that are none in a gradient: in fp32, with four more tensors of its size, two of a byte each.

    Source: runtime/zero/stage_1_and_2.py, _has_inf_or_nan; ATen/native/TensorCompare.cpp, isinf.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(check, frozen(4, 256)).allocated  # 4 + 1 + 4 + 1 + 1 + 4 bytes of each, and the largest
    15364
    """
    tape, shape = gradient.tape, gradient.shape
    float_x = cast(gradient, "fp32")
    nan = new(tape, shape, "bool", op="isnan")
    inf = run(tape, (Buffer("abs", shape, "fp32"), OUTPUTS), lambda: new(tape, shape, "bool", op="isinf"))
    inf_or_nan = new(tape, shape, "bool", op="logical_or")
    in_fp32 = new(tape, shape, "fp32", op="to")
    largest = new(tape, (), "fp32", op="max")
    del in_fp32
    del float_x, nan, inf, inf_or_nan, largest


def norm(gradient: Sym) -> Sym:
    """Return the norm of a gradient, of a copy in fp64.

    Source: runtime/zero/stage_1_and_2.py, get_grad_norm_direct; set_norm_for_param_grad_in_gpu.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(norm, frozen(4, 256)).allocated
    8200
    """
    in_fp64 = new(gradient.tape, gradient.shape, "fp64", op="to")
    made = new(gradient.tape, (), "fp64", op="linalg_vector_norm")
    del in_fp64
    return made


def offload(gradient: Sym) -> Sym:
    """Bring a reduced gradient to the host: checked, cast to fp32; return its norm, which stays until the step.

    Source: runtime/zero/stage_1_and_2.py, copy_grads_in_partition, async_inplace_copy_grad_to_fp32_buffer_from_gpu.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(offload, frozen(4, 256)).allocated
    27660
    """
    flat = view(gradient, (product(gradient.shape),))
    made = norm(flat)
    check(gradient)
    cast(flat, "fp32")
    return made


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: gradients are checked and their norms are made one by one, then they are flattened, which copies
    them, and cast to fp32; what they were is freed before the optimizer works in place. `states` are the flat fp32 copy
    and its moments, which the first step makes; the last one before them is the flat tensor of gradients.

    Source: runtime/zero/stage_1_and_2.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("adamw"), [one], [[one, one, one, one]]), frozen(4, 256)).allocated
    29708
    """
    (kept,) = states
    mark = parameters[0].tape.recorder.mark
    mark("check gradients")
    for one in parameters:
        check(one)
    mark("norms of gradients")
    norms = [norm(one) for one in parameters]
    mark("optimizer step")
    del norms
    averaged = kept.pop()
    flat = like(averaged, averaged.dtype, "flatten")
    gradient = cast(flat, "fp32")
    del flat, averaged
    if len(kept) == 1:
        kept += state(settings, kept[0])
    del gradient
