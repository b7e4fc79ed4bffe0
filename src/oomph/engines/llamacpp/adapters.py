"""LoRA adapters and control vectors beside a model: what lies where, and where the graph multiplies by it.

An adapter's pair of matrices lies with the matrix it changes. A control vector has a vector for each layer but the
first; its addition writes over the layer's result. Source: src/llama-adapter.cpp, build_lora_mm of
src/llama-graph.cpp, llama.cpp 0c1e57098.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.engines.llamacpp.file import ALIGNMENT, FileTensor, tensors_of
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, aligned, on_gpu
from oomph.errors import OomphError, UnsupportedError

if TYPE_CHECKING:
    from oomph.engines.llamacpp.job import LlamaCppJob
    from oomph.engines.llamacpp.served import Served

F32_BYTES = 4
HOST = -1
ENDS = (".lora_a", ".lora_b")
EMBEDDING = "token_embd."
MOST_ADAPTERS = 64


def adapters_of(job: LlamaCppJob, arch: str) -> tuple[tuple[FileTensor, ...], ...]:
    """Return the matrices of each adapter of a job; raises UnsupportedError for a file that is none of the model's."""
    names = [name for name in job.lora.split(",") if name]
    names += [name.rpartition(":")[0] or name for name in job.lora_scaled.split(",") if name]
    if len(names) > MOST_ADAPTERS:
        raise UnsupportedError(f"{len(names)} adapters at a time are not modelled.", f"Give {MOST_ADAPTERS} at most.")
    return tuple(_read(name, arch) for name in names)


def _read(name: str, arch: str) -> tuple[FileTensor, ...]:
    from oomph import sources

    try:
        header = sources.load(name, offline=True).header
    except OomphError as error:
        raise UnsupportedError(
            f"The adapter {name[:60]!r} is not known here: {error.problem}", "Point --lora to its .gguf file."
        ) from None
    said = header.metadata if header is not None and header.kind == "gguf" else {}
    if header is None or said.get("general.type") != "adapter" or said.get("adapter.type") != "lora":
        raise UnsupportedError(f"{name[:60]!r} is no LoRA adapter in GGUF.", "Convert it: convert_lora_to_gguf.py.")
    if said.get("general.architecture") != arch:
        raise UnsupportedError(
            f"The adapter {name[:60]!r} is of {str(said.get('general.architecture'))[:40]}, the model of {arch}.",
            "Give one of this model's.",
        )
    found = tuple(each for each in tensors_of(header) if each.name.endswith(ENDS))
    if any(each.name.startswith(EMBEDDING) for each in found):
        raise UnsupportedError("An adapter of the embedding is not modelled.", "Leave --lora out: the rest is.")
    pairs = {each.name for each in found}
    if any(each.name[: -len(ENDS[0])] + end not in pairs for each in found for end in ENDS):
        raise UnsupportedError(f"Half of a pair of matrices is missing in {name[:60]!r}.", "Download it again.")
    return found


def placed(served: Served, adapters: tuple[tuple[FileTensor, ...], ...]) -> tuple[tuple[FileTensor, int], ...]:
    """Return each matrix with the device of the one that it changes, under a name that tells adapters apart."""
    where = {tensor.name: device for tensor, device in served.loaded.tensors}
    found = []
    for number, adapter in enumerate(adapters):
        for each in adapter:
            changed = each.name[: -len(ENDS[0])]
            if changed not in where:
                raise UnsupportedError(f"The model has no {changed[:60]} for an adapter to change.", "Give its own.")
            found.append((replace(each, name=f"{each.name}{number}"), where[changed]))
    return tuple(found)


def adapter_bytes(served: Served, device: int) -> int:
    """Return what adapters take on a device."""
    mine = [each for each, there in served.adapters if there == device]
    if device == HOST:
        return sum(aligned(each.n_bytes, ALIGNMENT) for each in mine)
    return sum(on_gpu(each.type, each.shape) for each in mine)


def vector_bytes(served: Served, device: int) -> int:
    """Return what a control vector takes on a device: with each layer but the first one of F32."""
    each = aligned(served.sizes.n_embd * F32_BYTES, ALIGNMENT if device == HOST else GPU_ALIGNMENT)
    return int(each) * sum(there == device for there in served.placed.layers[1 : len(served.sizes.kept)])
