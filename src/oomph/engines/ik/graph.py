"""ik_llama.cpp's compute buffers: the one graph it reserves memory for, played through its scheduler and allocator.

It is that of the largest batch, at the end of a full cache, with the logits of all its tokens. Layers that are alike
are played a few times, contexts that differ in nothing but their length once, as for llama.cpp (graph.py, plans.py).
Source: llama_init_from_model in src/llama.cpp of ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from operator import attrgetter
from typing import Any

from oomph.engines.ik.graphs import GRAPHS as DECODERS
from oomph.engines.ik.late import LateBuilder
from oomph.engines.ik.latent import deepseek2
from oomph.engines.ik.parts import IkBuilder
from oomph.engines.ik.sched import IN_PLACE, IkScheduler
from oomph.engines.ik.setup import IkSetup, divisions
from oomph.engines.llamacpp.gallocr import Buffer, Step, lifetimes, place
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph import CELLS, CPU_ALIGNMENT, KEPT_PLANS
from oomph.engines.llamacpp.graph_layers import Run, fewer_layers
from oomph.engines.llamacpp.graph_setup import CPU
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW
from oomph.engines.llamacpp.plans import Plan
from oomph.errors import UnsupportedError

LATE_ONLY = ("glm4moe",)  # whose graphs of older builds are not known here
GRAPHS: Mapping[str, Callable[[IkBuilder], Graph]] = {**DECODERS, "deepseek2": deepseek2}

_PLANS: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
OF_CONTEXT = frozenset(("tensors", "n_ctx", "cells", "swa_cells", "n_ubatch", "n_outputs_max", "held_cells"))
_ALL_ELSE = attrgetter(*(each.name for each in fields(IkSetup) if each.name not in OF_CONTEXT))


def compute_buffers(setup: IkSetup) -> dict[str, int]:
    """Return the bytes of the compute buffer of each device; the CPU's is that of the host.

    Raises UnsupportedError for an architecture whose graph is not known here.
    """
    setup = replace(setup, held_cells=setup.cells)
    key = (id(setup.tensors), setup.n_tokens, divisions(setup), *_ALL_ELSE(setup))
    if key not in _PLANS:
        _PLANS[key] = _planned(setup)
        while len(_PLANS) > KEPT_PLANS:
            _PLANS.popitem(last=False)
    plan = _PLANS[key]
    # Of latent attention blocks differ from context to context, so that a play would hold for no other.
    found = _once(plan, setup.cells) if setup.mla else plan.play(setup.cells, 0)
    return dict(zip(setup.devices, found, strict=True))


def _once(plan: Plan, cells: int) -> list[int]:
    """Play a plan for one context."""
    buffers = [Buffer(each) for each in plan.alignments]
    states = place(plan.sizes(cells, 0), buffers, plan.marks)
    if any(states[run.before] != states[run.after] for run in plan.runs):
        return _once(plan.whole(), cells)
    return [int(buffer.n_bytes) for buffer in buffers]


def _planned(setup: IkSetup, layers: tuple[IkSetup, tuple[Run, ...]] | None = None) -> Plan:
    """Build a graph for two sizes of the cache, and tell what its cells add: of few layers, or those given."""
    fewer, runs = layers or fewer_layers(setup)
    assert isinstance(fewer, IkSetup)
    (base, marks), (more, _) = (_steps(replace(fewer, cells=cells)) for cells in (CELLS, 2 * CELLS))
    grows, steps = [], []
    for one, two in zip(base, more, strict=True):
        assert one[:3] == two[:3], "a graph does not depend on how long the context is"
        a, c = ((two[i] - one[i]) // CELLS for i in (3, 4))
        grows.append((a, 0, c, 0))
        steps.append(Step(one.taken, one.buffer, one.slot, one[3] - a * CELLS, one[4] - c * CELLS))
    alignments = [CPU_ALIGNMENT if device == CPU else GPU_ALIGNMENT for device in setup.devices]
    whole = partial(_planned, setup, (setup, ()))
    return Plan(setup, alignments, tuple(steps), tuple(grows), tuple(marks), runs, whole)


def _steps(setup: IkSetup) -> tuple[list[Step], list[int]]:
    """Return what the graph takes and frees, and how many steps that is at the start of each layer."""
    if setup.arch not in GRAPHS:
        raise UnsupportedError(
            f"oomph does not know the graph that ik_llama.cpp builds for {setup.arch}.",
            f"Known are {', '.join(sorted(GRAPHS))}.",
        )
    tokens, kind = setup.n_tokens, LateBuilder if setup.of_ik.late else IkBuilder
    builder = kind(setup, tokens, 1, setup.most_outputs or tokens)
    graph = GRAPHS[setup.arch](builder)
    copies = setup.of_ik.copies if setup.pipeline else 1
    scheduler = IkScheduler(setup.devices, setup.op_offload, copies, copies_unused=False, build=setup.of_ik)
    done = scheduler.schedule(graph)
    of_node, of_leaf, starts = done.node_backends, done.leaf_backends, builder.starts
    return lifetimes(done.nodes, done.leafs, _sizes(setup), of_node, of_leaf, starts, IN_PLACE)


def _sizes(setup: IkSetup) -> Callable[[Tensor, int], int]:
    """Return what a tensor takes on a device: on a GPU quantised rows are padded."""

    def size(tensor: Tensor, buffer: int) -> int:
        kind, left = tensor.type, tensor.ne[0] % GPU_ROW
        if kind.block == 1 or not left or setup.devices[buffer] == CPU:
            return tensor.n_bytes
        return tensor.n_bytes + kind.row_bytes(GPU_ROW - left)

    return size
