"""llama.cpp's compute buffers: the graphs it reserves memory for, played through its scheduler and its allocator.

Source: llama_context::sched_reserve and graph_reserve in src/llama-context.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from oomph.engines.llamacpp.gallocr import Buffer, lifetimes, place
from oomph.engines.llamacpp.ggml import Graph, Tensor
from oomph.engines.llamacpp.graph_dense import GRAPHS as DENSE
from oomph.engines.llamacpp.graph_latent import deepseek2
from oomph.engines.llamacpp.graph_parts import Builder
from oomph.engines.llamacpp.graph_recurrent import GRAPHS as RECURRENT
from oomph.engines.llamacpp.graph_setup import CPU, GraphSetup
from oomph.engines.llamacpp.sched import COPIES, Scheduler
from oomph.errors import UnsupportedError

GRAPHS: Mapping[str, Callable[[Builder], Graph]] = {**DENSE, "deepseek2": deepseek2, **RECURRENT}

CPU_ALIGNMENT = 32  # TENSOR_ALIGNMENT of ggml-backend.cpp, host buffers of GPUs included
CUDA_ALIGNMENT = 128  # ggml_backend_cuda_buffer_type_get_alignment
CUDA_ROW = 512  # MATRIX_ROW_PADDING: quantised rows on a GPU end on a multiple of so many elements


def compute_buffers(setup: GraphSetup) -> dict[str, int]:
    """Return the bytes of the compute buffer of each device; the CPU's is that of the host.

    Raises UnsupportedError for an architecture whose graph is not known here.
    """
    if setup.arch not in GRAPHS:
        raise UnsupportedError(
            f"oomph does not know the graph that llama.cpp builds for {setup.arch}.",
            f"Known are {', '.join(sorted(GRAPHS))}.",
        )
    tokens = min(setup.n_ctx, setup.n_ubatch)
    found = dict.fromkeys(setup.devices, 0)
    for n_tokens, n_outputs in ((tokens, min(tokens, setup.n_outputs_max)), (setup.n_seq_max, setup.n_seq_max)):
        for device, n_bytes in reserve(setup, n_tokens, n_outputs).items():
            found[device] = max(found[device], n_bytes)
    return found


def reserve(setup: GraphSetup, n_tokens: int, n_outputs: int) -> dict[str, int]:
    """Return what one graph needs on each device: a batch of so many tokens, divided evenly among all sequences."""
    n_tokens = -(-n_tokens // setup.n_seq_max) * setup.n_seq_max
    graph = GRAPHS[setup.arch](Builder(setup, n_tokens, setup.n_seq_max, n_outputs))
    done = Scheduler(setup.devices, setup.op_offload, COPIES if setup.pipeline else 1).schedule(graph)
    steps = lifetimes(done.nodes, done.leafs, _sizes(setup.devices), done.node_backends, done.leaf_backends)
    buffers = [Buffer(CPU_ALIGNMENT if device == CPU else CUDA_ALIGNMENT) for device in setup.devices]
    place(steps, buffers)
    return {device: buffer.n_bytes for device, buffer in zip(setup.devices, buffers, strict=True)}


def _sizes(devices: Sequence[str]) -> Callable[[Tensor, int], int]:
    """Return what a tensor takes on a device: on a GPU quantised rows are padded."""

    def size(tensor: Tensor, buffer: int) -> int:
        kind, left = tensor.type, tensor.ne[0] % CUDA_ROW
        if kind.block == 1 or not left or devices[buffer] == CPU:
            return tensor.n_bytes
        return tensor.n_bytes + kind.row_bytes(CUDA_ROW - left)

    return size
