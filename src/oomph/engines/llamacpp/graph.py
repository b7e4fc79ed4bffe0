"""llama.cpp's compute buffers: the graphs it reserves memory for, played through its scheduler and its allocator.

Only few layers of a model are played: layers that are alike leave the allocator as they found it, and where two of them
did, all further ones would. That is looked at each time, and all layers are played where it is not so. What tensors
take grows in proportion to the cells of the caches, so that a graph is built for one context and played for any.

Source: llama_context::sched_reserve and graph_reserve in src/llama-context.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from operator import attrgetter
from typing import Any

from oomph.engines.llamacpp.cuda import flash_attn_bytes
from oomph.engines.llamacpp.gallocr import Buffer, Step, lifetimes, place
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph_dense import GRAPHS as DENSE
from oomph.engines.llamacpp.graph_gemma4 import gemma4
from oomph.engines.llamacpp.graph_latent import deepseek2
from oomph.engines.llamacpp.graph_layers import Run, fewer_layers
from oomph.engines.llamacpp.graph_llama4 import llama4
from oomph.engines.llamacpp.graph_parts import Builder
from oomph.engines.llamacpp.graph_recurrent import GRAPHS as RECURRENT
from oomph.engines.llamacpp.graph_setup import CPU, GraphSetup
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW
from oomph.engines.llamacpp.plans import Plan
from oomph.engines.llamacpp.sched import COPIES, Scheduler
from oomph.errors import UnsupportedError

GRAPHS: Mapping[str, Callable[[Builder], Graph]] = {
    **DENSE,
    "deepseek2": deepseek2,
    "gemma4": gemma4,
    "llama4": llama4,
    **RECURRENT,
}

CPU_ALIGNMENT = 32  # TENSOR_ALIGNMENT of ggml-backend.cpp, host buffers of GPUs included
# Cells for which a graph is built: like no other number of a model, so that no two shapes are the same by accident.
CELLS, SWA_CELLS = 256 * 7919, 256 * 6143
KEPT_PLANS = 32


def compute_buffers(setup: GraphSetup) -> dict[str, int]:
    """Return the bytes of the compute buffer of each device; the CPU's is that of the host.

    Raises UnsupportedError for an architecture whose graph is not known here.
    """
    tokens = min(setup.n_ctx, setup.n_ubatch)
    prompt = _plan(setup, tokens, min(tokens, setup.n_outputs_max))
    found = prompt.play(setup.cells, setup.swa_cells)
    if setup.measured:
        return dict(zip(setup.devices, found, strict=True))
    # The graph of one token a sequence is reserved too; a buffer grows where that one needs more.
    single = _plan(setup, setup.n_seq_max, setup.n_seq_max)
    if any(single.at_most(i, setup.cells, setup.swa_cells) > n for i, n in enumerate(found)):
        more = single.play(setup.cells, setup.swa_cells)
        found = [max(pair) for pair in zip(found, more, strict=True)]
    return dict(zip(setup.devices, found, strict=True))


def reserve(setup: GraphSetup, n_tokens: int, n_outputs: int) -> dict[str, int]:
    """Return what one graph needs on each device, all layers played: a batch of tokens, divided among all sequences."""
    steps, _ = _steps(setup, n_tokens, n_outputs)
    buffers = [Buffer(alignment_of(device)) for device in setup.devices]
    place(steps, buffers)
    return {device: buffer.n_bytes for device, buffer in zip(setup.devices, buffers, strict=True)}


def _steps(setup: GraphSetup, n_tokens: int, n_outputs: int) -> tuple[list[Step], list[int]]:
    if setup.arch not in GRAPHS:
        raise UnsupportedError(
            f"oomph does not know the graph that llama.cpp builds for {setup.arch}.",
            f"Known are {', '.join(sorted(GRAPHS))}.",
        )
    n_tokens = -(-n_tokens // setup.n_seq_max) * setup.n_seq_max
    builder = Builder(setup, n_tokens, setup.n_seq_max, n_outputs)
    graph = GRAPHS[setup.arch](builder)
    if setup.measured:
        for node in graph.nodes:
            node.pinned = None
    copies = COPIES if setup.pipeline else 1
    build = setup.build
    done = Scheduler(setup.devices, setup.op_offload, copies, build.copies_unused, build.fused).schedule(graph)
    sizes = sizes_on(setup.devices, build.kernel_copies)
    return lifetimes(done.nodes, done.leafs, sizes, done.node_backends, done.leaf_backends, builder.starts)


_PLANS: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
OF_CONTEXT = frozenset(("tensors", "n_ctx", "cells", "swa_cells", "n_ubatch", "n_outputs_max"))
_ALL_ELSE = attrgetter(*(each.name for each in fields(GraphSetup) if each.name not in OF_CONTEXT))


def _plan(setup: GraphSetup, n_tokens: int, n_outputs: int) -> Plan:
    """Return the plan of a batch, made once for a model, whatever its context."""
    key = (id(setup.tensors), bool(setup.swa_cells), n_tokens, n_outputs, *_ALL_ELSE(setup))
    if key not in _PLANS:
        _PLANS[key] = _planned(setup, n_tokens, n_outputs)
        while len(_PLANS) > KEPT_PLANS:
            _PLANS.popitem(last=False)
    return _PLANS[key]


def _planned(
    setup: GraphSetup, n_tokens: int, n_outputs: int, layers: tuple[GraphSetup, tuple[Run, ...]] | None = None
) -> Plan:
    """Build a graph for three sizes of the caches, and tell what their cells add: of few layers, or those given."""
    fewer, runs = layers or fewer_layers(setup)

    def at(cells: int, swa_cells: int) -> tuple[list[Step], list[int]]:
        return _steps(replace(fewer, cells=cells, swa_cells=swa_cells), n_tokens, n_outputs)

    (base, marks), (more, _) = at(CELLS, SWA_CELLS), at(2 * CELLS, SWA_CELLS)
    swa = at(CELLS, 2 * SWA_CELLS)[0] if setup.swa_cells else base  # without windows nothing grows with theirs
    grows, steps = [], []
    for one, two, three in zip(base, more, swa, strict=True):
        assert one[:3] == two[:3] == three[:3], "a graph does not depend on how long the context is"
        a, c = ((two[i] - one[i]) // CELLS for i in (3, 4))
        b, d = ((three[i] - one[i]) // SWA_CELLS for i in (3, 4))
        grows.append((a, b, c, d))
        left = (one[3] - a * CELLS - b * SWA_CELLS, one[4] - c * CELLS - d * SWA_CELLS)
        steps.append(Step(one.taken, one.buffer, one.slot, *left))
    return Plan(
        setup, [alignment_of(device) for device in setup.devices], tuple(steps), tuple(grows), tuple(marks), runs,
        # with every layer, where they do not leave the allocator as they found it
        partial(_planned, setup, n_tokens, n_outputs, (setup, ())),
    )  # fmt: skip


def alignment_of(device: str) -> int:
    """Return what addresses in a device's compute buffer are multiples of."""
    return CPU_ALIGNMENT if device == CPU else GPU_ALIGNMENT


def sizes_on(devices: Sequence[str], kernel_copies: bool) -> Callable[[Tensor, int], int]:
    """Return what a tensor takes on a device: on a GPU quantised rows are padded, some kernels want more."""

    def size(tensor: Tensor, buffer: int) -> int:
        kind, left = tensor.type, tensor.ne[0] % GPU_ROW
        if kernel_copies and tensor.op == "FLASH_ATTN_EXT" and devices[buffer] != CPU:
            return flash_attn_bytes(tensor)
        if kind.block == 1 or not left or devices[buffer] == CPU:
            return tensor.n_bytes
        return tensor.n_bytes + kind.row_bytes(GPU_ROW - left)

    return size
