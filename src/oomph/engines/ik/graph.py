"""ik_llama.cpp's compute buffers: the one graph it reserves memory for, played through its scheduler and allocator.

It is that of the largest batch, at the end of a full cache, with the logits of all its tokens. Layers that are alike
are played a few times, as for llama.cpp; here a graph may depend on the context, since -amb divides heads by it.
Source: llama_init_from_model in src/llama.cpp of ik_llama.cpp 8337e4cd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from oomph.engines.ik.graphs import GRAPHS as DECODERS
from oomph.engines.ik.late import LateBuilder
from oomph.engines.ik.latent import deepseek2
from oomph.engines.ik.parts import IkBuilder
from oomph.engines.ik.sched import IN_PLACE, IkScheduler
from oomph.engines.ik.setup import IkSetup
from oomph.engines.llamacpp.gallocr import Buffer, lifetimes, place
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph import CPU_ALIGNMENT
from oomph.engines.llamacpp.graph_layers import fewer_layers
from oomph.engines.llamacpp.graph_setup import CPU
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW
from oomph.errors import UnsupportedError

LATE_ONLY = ("glm4moe",)  # whose graphs of older builds are not known here
GRAPHS: Mapping[str, Callable[[IkBuilder], Graph]] = {**DECODERS, "deepseek2": deepseek2}


def compute_buffers(setup: IkSetup) -> dict[str, int]:
    """Return the bytes of the compute buffer of each device; the CPU's is that of the host.

    Raises UnsupportedError for an architecture whose graph is not known here.
    """
    fewer, runs = fewer_layers(setup)
    assert isinstance(fewer, IkSetup)
    found, states = reserve(fewer)
    if any(states[run.before] != states[run.after] for run in runs):
        found, _ = reserve(setup)
    return found


def reserve(setup: IkSetup) -> tuple[dict[str, int], list[tuple[object, ...]]]:
    """Return what the graph needs on each device, all layers played, and the allocator's state before each layer."""
    if setup.arch not in GRAPHS:
        raise UnsupportedError(
            f"oomph does not know the graph that ik_llama.cpp builds for {setup.arch}.",
            f"Known are {', '.join(sorted(GRAPHS))}.",
        )
    tokens = min(setup.n_ctx, setup.n_ubatch)
    builder = (LateBuilder if setup.of_ik.late else IkBuilder)(setup, tokens, 1, setup.most_outputs or tokens)
    graph = GRAPHS[setup.arch](builder)
    copies = setup.of_ik.copies if setup.pipeline else 1
    scheduler = IkScheduler(setup.devices, setup.op_offload, copies, copies_unused=False, build=setup.of_ik)
    done = scheduler.schedule(graph)
    steps, marks = lifetimes(
        done.nodes, done.leafs, _sizes(setup), done.node_backends, done.leaf_backends, builder.starts, IN_PLACE
    )
    buffers = [Buffer(CPU_ALIGNMENT if device == CPU else GPU_ALIGNMENT) for device in setup.devices]
    states = place(steps, buffers, marks)
    return {device: buffer.n_bytes for device, buffer in zip(setup.devices, buffers, strict=True)}, states


def _sizes(setup: IkSetup) -> Callable[[Tensor, int], int]:
    """Return what a tensor takes on a device: on a GPU quantised rows are padded."""

    def size(tensor: Tensor, buffer: int) -> int:
        kind, left = tensor.type, tensor.ne[0] % GPU_ROW
        if kind.block == 1 or not left or setup.devices[buffer] == CPU:
            return tensor.n_bytes
        return tensor.n_bytes + kind.row_bytes(GPU_ROW - left)

    return size
