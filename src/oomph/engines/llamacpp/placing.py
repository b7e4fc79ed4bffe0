"""Which device llama.cpp puts each layer and each tensor on, and what its buffers of weights take there.

The last layers go to the GPUs, the output layer first among them; among GPUs they are cut where the shares of free
memory (or --tensor-split) end. What comes before the layers stays with the host. Source: llama_model_base::load_tensors
of src/llama-model.cpp and create_tensor of src/llama-model-loader.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from oomph.engines.llamacpp.file import ALIGNMENT, EMBEDDING, File, FileTensor
from oomph.formats.gguf_types import GgmlType

Amount = Any  # an int or a numpy array of them
Overrides = tuple[tuple[re.Pattern[str], int], ...]  # tensors of such names go to a device, whatever their layer

INPUT = ("token_embd.weight", "position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
# Outside the layers, but loaded with each of them: LLM_TENSOR_LAYER_REPEATING in src/llama-arch.cpp.
WITH_LAYERS = re.compile(r"rope_(freqs|factors_\w+)\.weight")
EMBEDDING_NORM = "token_embd_norm."
WITH_FIRST = re.compile(r"token_embd_norm\.|per_layer_(model_proj|proj_norm)\.")
# Either of two tables is loaded, the short one where contexts are no longer than the model was first trained for.
LONG_TABLE, SHORT_TABLE = "rope_factors_long.weight", "rope_factors_short.weight"
GPU_ALIGNMENT = 128  # ggml_backend_cuda_buffer_type_get_alignment
GPU_ROW = 512  # MATRIX_ROW_PADDING: quantised rows end on a multiple of so many elements


@dataclass(frozen=True)
class Placement:
    """The device of each layer of the file, and of the output. GPUs are numbered from 0, the host is -1."""

    layers: tuple[int, ...]
    output: int


def place(n_layers: int, asked: int | None, shares: Sequence[float], output_first: bool = True) -> Placement:
    """Return where layers go: `asked` of them on GPUs (None: all), cut by the GPUs' shares; no shares, no GPU.

    The output is the first layer that goes to a GPU; in old builds (not `output_first`) the last.

    Two equal GPUs and all of 80 layers: the output layer makes 81, of which the first GPU gets 41.
    >>> place(80, None, (1.0, 1.0)).layers.count(0), place(80, 10, (1.0,)).layers.count(-1)
    (41, 71)
    """
    wanted = n_layers + 1 if asked is None else asked
    start = max(n_layers + output_first - wanted, 0)
    on_gpus = min(wanted, n_layers + 1) if shares else 0
    whole = sum(shares)
    ends = [end / whole for end in accumulate(shares)] if whole else []

    def device(layer: int) -> int:
        if layer < start or layer - start >= on_gpus:
            return -1
        return min(bisect_right(ends, (layer - start) / on_gpus), len(ends) - 1)

    return Placement(tuple(map(device, range(n_layers))), device(n_layers))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A file's tensors with the device each is loaded to; a tensor may be loaded to several."""

    file: File
    tensors: tuple[tuple[FileTensor, int], ...]

    @cached_property
    def gpu_bytes(self) -> Mapping[int, int]:
        """Bytes of the buffer of weights of each GPU."""
        found: dict[int, int] = {}
        for tensor, at in self.tensors:
            if at >= 0:
                found[at] = found.get(at, 0) + on_gpu(tensor.type, tensor.shape)
        return found

    @cached_property
    def host_bytes(self) -> int:
        """Bytes of the weights that lie with the host."""
        return sum(aligned(tensor.n_bytes, ALIGNMENT) for tensor, at in self.tensors if at < 0)

    @cached_property
    def mapped_bytes(self) -> int:
        """Bytes from the first to the last tensor of the file that lies with the host: what is mapped of it."""
        theirs = {tensor.name for tensor, at in self.tensors if at < 0}
        at, first, last = 0, -1, 0
        for tensor in self.file.tensors:
            if tensor.name in theirs:
                first = at if first < 0 else first
                last = at + tensor.n_bytes
            at += aligned(tensor.n_bytes, ALIGNMENT)
        return last - max(first, 0)


@lru_cache(maxsize=64)
def load(file: File, placed: Placement, overrides: Overrides, n_layer: int) -> Loaded:
    """Return where each tensor is loaded to; of layers from `n_layer` on (prediction layers) none is."""
    return Loaded(file, tuple(_places(file, placed, overrides, n_layer)))


def _places(file: File, placed: Placement, overrides: Overrides, n_layer: int) -> Iterator[tuple[FileTensor, int]]:
    has_tables = any(tensor.name == SHORT_TABLE for tensor in file.tensors)
    has_last_norm = any(tensor.name.startswith("output_norm.") for tensor in file.tensors)
    for tensor in file.tensors:
        if tensor.layer >= n_layer or (has_tables and tensor.name == LONG_TABLE):
            continue
        other = next((device for pattern, device in overrides if pattern.search(tensor.name)), None)
        for device in _devices(tensor, placed, has_last_norm):
            yield tensor, device if other is None else other
        if tensor.name == EMBEDDING and file.tied and placed.output >= 0 and other is None:
            yield tensor, placed.output


def _devices(tensor: FileTensor, placed: Placement, has_last_norm: bool) -> Sequence[int]:
    """Return the devices that a tensor goes with, before patterns are asked.

    Without a last norm (LFM2) the embedding's is in its place: LLM_TENSOR_OUTPUT_NORM_LFM2.
    """
    if tensor.layer >= 0:
        return (placed.layers[tensor.layer],)
    if WITH_LAYERS.fullmatch(tensor.name):
        return sorted(set(placed.layers))
    if tensor.name in INPUT:
        return (-1,)
    if WITH_FIRST.match(tensor.name) and (has_last_norm or not tensor.name.startswith(EMBEDDING_NORM)):
        return (placed.layers[0],)
    return (placed.output,)


def on_gpu(kind: GgmlType, shape: Sequence[int]) -> int:
    """Return what a tensor takes in a buffer of a GPU: quantised rows are padded, all is aligned.

    Source: ggml_backend_cuda_buffer_type_get_alloc_size of ggml/src/ggml-cuda/ggml-cuda.cu.
    """
    n_bytes = kind.tensor_bytes(shape)
    short = -shape[-1] % GPU_ROW if kind.block > 1 else 0
    taken: int = aligned(n_bytes + (kind.row_bytes(short) if short else 0), GPU_ALIGNMENT)
    return taken


def aligned(n_bytes: Amount, to: int) -> Amount:
    """Return bytes rounded up to a multiple."""
    return -(-n_bytes // to) * to
