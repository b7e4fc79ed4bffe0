"""AdamW under DeepSpeed's ZeRO stage 2 on one GPU: fp32 copies of what trains, buckets that gradients are moved to.

Nothing is divided among GPUs here, but all the tensors are there: 14 bytes for each 16-bit parameter that trains and 2
of gradient, in a step 6 more, and two buckets of a fixed size in every backward pass. A gradient goes into a bucket as
soon as it is there; a bucket is reduced on a CUDA stream of its own, where gradients are copied out of it. DeepSpeed
lays what is here one tensor per parameter into one flat tensor. Source: DeepSpeed 0.12 to 0.19,
runtime/zero/stage_1_and_2.py; with FusedAdam, ops/adam/fused_adam.py, which works in place.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.optimizers.settings import Settings
from oomph.tape.autograd import like
from oomph.tape.sym import Sym, new

STATES = "before"
BUFFERS = 2  # with overlap_comm: one fills up while the other is reduced
REDUCED = "grads_in_partition"  # what is allocated on the stream that reduces


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the fp32 master weight, exp_avg and exp_avg_sq of a parameter, 12 bytes for each element.

    Source: runtime/zero/stage_1_and_2.py, single_partition_of_fp32_groups; ops/adam/fused_adam.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adamw"), one), (4, 256)).allocated
    12288
    """
    return [like(parameter, "fp32", op) for op in ("fp32_partition", "exp_avg", "exp_avg_sq")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: gradients are flattened, which copies them, and cast to fp32.

    Source: runtime/zero/stage_1_and_2.py, step, flatten_dense_tensors_aligned.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("adamw"), [one], [[one]]), frozen(4, 256)).allocated
    6144
    """
    flat = [like(one, one.dtype, "flatten") for one in parameters]
    gradients = [like(one, "fp32") for one in flat]
    del flat
    del gradients


def buckets(elements: int, parameters: Sequence[Sym]) -> list[Sym]:
    """Return the buffers that gradients are moved to, there from the beginning of a backward pass to its end.

    Source: runtime/zero/stage_1_and_2.py, backward, _release_ipg_buffers.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: buckets(1000, [one]), frozen(4, 256)).allocated
    4000
    """
    first = parameters[0]
    return [new(first.tape, (elements,), first.dtype, op="ipg_buffer") for _ in range(BUFFERS)]


def reduced(parameters: Sequence[Sym]) -> list[Sym]:
    """Return what gradients are copied to when their bucket is reduced, one more tensor of each parameter's size.

    A later micro-batch adds its copies to those of the first, which live until a step has flattened them. Source:
    runtime/zero/stage_1_and_2.py, copy_grads_in_partition, independent_gradient_partition_epilogue.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: reduced([one]), frozen(4, 256)).allocated
    2048
    """
    return [like(one, one.dtype, REDUCED) for one in parameters]
