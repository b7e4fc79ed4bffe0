"""A projector beside the model (--mmproj): the weights of its tower, and what reading an image takes.

Both lie on the first GPU, or with the host where there is none or `--no-mmproj-offload` is said. The server reserves
memory for an image of middling size when it starts; a larger one, as the tower takes them, makes the buffer grow.
Source: tools/mtmd/clip.cpp (load_hparams, load_tensors, warmup) of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oomph.engines.base import Deployment, Later, with_items
from oomph.engines.llamacpp.builds import build_of
from oomph.engines.llamacpp.clip_graphs import GRAPHS, TOKENS, Tower, image_graph
from oomph.engines.llamacpp.compute import BROKEN
from oomph.engines.llamacpp.file import ALIGNMENT, FileTensor, tensors_of
from oomph.engines.llamacpp.gallocr import Buffer, lifetimes, place
from oomph.engines.llamacpp.graph import alignment_of, sizes_on
from oomph.engines.llamacpp.graph_setup import CPU, Stored
from oomph.engines.llamacpp.placing import aligned, on_gpu
from oomph.engines.llamacpp.sched import Scheduler
from oomph.errors import OomphError, UnsupportedError
from oomph.ledger import Item, Printed
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.engines.llamacpp.job import LlamaCppJob

SOURCE = "llama.cpp 0c1e57098: tools/mtmd/clip.cpp"
GPU = "CUDA0"
OF_TOWERS = ("v.", "mm.")
FULL = "clip.vision.n_wa_pattern"
LARGEST_SIDE = 2**14  # pixels; patches of an image are at most so many squared
MOST_TOKENS = 2**16  # of an image
SHOWN = 40  # letters of a kind that is not known


@dataclass(frozen=True)
class Projector:
    """Bytes of a projector on its device, and with the host while it is on a GPU: weights, the buffer that the server
    starts with, and that of the largest image; None where its graph is not known. `counted` are the weights without
    what a device pads, which is what --fit reckons with."""

    kind: str
    on_gpu: bool
    weights: int
    counted: int
    buffers: tuple[int, int] | None
    largest: tuple[int, int] | None


def projector_of(job: LlamaCppJob, gpus: bool) -> Projector:
    """Return what the projector of a job takes; raises UnsupportedError for a file that is none."""
    from oomph import sources

    try:
        header = sources.load(job.mmproj, offline=True).header
    except OomphError as error:
        raise UnsupportedError(
            f"The projector {job.mmproj[:60]!r} is not known here: {error.problem}", "Point --mmproj to its .gguf file."
        ) from None
    if header is None or header.kind != "gguf" or header.metadata.get("general.architecture") != "clip":
        raise UnsupportedError(
            f"{job.mmproj[:60]!r} is no projector.", "Point --mmproj to the mmproj file of the model."
        )
    offload = gpus and job.mmproj_offload
    kind = str(header.metadata.get("clip.projector_type", header.metadata.get("clip.vision.projector_type")))[:SHOWN]
    tensors = tensors_of(header)
    weights = sum(on_gpu(t.type, t.shape) if offload else aligned(t.n_bytes, ALIGNMENT) for t in tensors)
    counted = sum(each.n_bytes for each in tensors)
    if kind not in GRAPHS or not all(each.name.startswith(OF_TOWERS) for each in tensors):
        return Projector(kind, offload, weights, counted, None, None)
    tower = _tower(kind, header.metadata, tensors, GPU if offload else CPU)
    usual, most = TOKENS.get(tower.kind, (0, 0))
    most = max(usual, job.image_max_tokens or most) if most else 0
    try:
        found = [_buffers(tower, tokens, job.flash, job.build) for tokens in (usual, most)]
    except BROKEN:
        raise UnsupportedError(
            f"The tensors of this file are not those of a projector {tower.kind}.", "Download it again."
        ) from None
    return Projector(tower.kind, offload, weights, counted, found[0], found[1])


def _tower(kind: str, metadata: Mapping[str, Any], tensors: tuple[FileTensor, ...], device: str) -> Tower:
    def number(key: str, default: int | None = None, most: int = LARGEST_SIDE) -> int:
        found = metadata.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= most:
            raise UnsupportedError(f"The projector says {str(found)[:40]} for {key}.", "Download it again.")
        return found

    merges = {"gemma3": ("clip.vision.projector.scale_factor", 4), "pixtral": ("clip.vision.spatial_merge_size", 1)}
    key, usual = merges.get(kind, ("clip.vision.spatial_merge_size", 2 if kind.startswith("qwen") else 1))
    return Tower(
        kind=kind,
        tensors={each.name: Stored(each.shape[::-1], each.type, device) for each in tensors},
        image=number("clip.vision.image_size"),
        patch=max(1, number("clip.vision.patch_size")),
        heads=max(1, number("clip.vision.attention.head_count")),
        layers=number("clip.vision.block_count", most=512),
        merge=max(1, number(key, usual)),
        full_every=number(FULL, 0) if kind == "qwen2.5vl_merger" else 0,
    )


@lru_cache(maxsize=16)
def _buffers(tower: Tower, tokens: int, flash: bool, build: int | None) -> tuple[int, int]:
    """Return the bytes that an image takes on the tower's device, and with the host beside a GPU."""
    if tokens > MOST_TOKENS or tower.image // tower.patch > MOST_TOKENS:
        raise UnsupportedError(f"An image of {tokens} tokens is none.", "Say fewer: --image-max-tokens 4096.")
    on = next(iter(tower.tensors.values())).device
    devices = (CPU,) if on == CPU else (on, CPU)
    as_built = build_of(build)
    graph = image_graph(tower, tokens, flash, as_built.image_mask_f16)
    done = Scheduler(devices, True, 1, as_built.copies_unused, as_built.fused).schedule(graph)
    sizes = sizes_on(devices, as_built.kernel_copies)
    steps, _ = lifetimes(done.nodes, done.leafs, sizes, done.node_backends, done.leaf_backends)
    found = [Buffer(alignment_of(device)) for device in devices]
    place(steps, found)
    n_bytes = [int(buffer.n_bytes) for buffer in found]
    return n_bytes[0], n_bytes[1] if len(n_bytes) > 1 else 0


def with_projector(deployed: Deployment, projector: Projector) -> Deployment:
    """Return a deployment with a projector on its first GPU, or with the host."""
    first, *others, host = deployed.shares
    weights = Item("weights of the projector", "weights", projector.weights, source="rule", evidence=SOURCE)
    if projector.on_gpu:
        first, host = with_items(first, weights, *_buffer(projector, 0)), with_items(host, *_buffer(projector, 1))
    else:
        host = with_items(host, weights, *_buffer(projector, 0))
    lines, before = _lines(projector), deployed.printed
    unknown = f"What the projector {projector.kind} takes to read an image is not known here: its buffer is not counted"
    return replace(
        deployed,
        shares=(first, *others, host),
        printed=Later(lambda: (*before, *lines)),
        warnings=deployed.warnings if projector.buffers else (*deployed.warnings, unknown),
    )


def _buffer(projector: Projector, at: int) -> tuple[Item, ...]:
    """Return the compute buffer on the tower's device (0) or with the host beside it (1): at the start, and at most."""
    if projector.buffers is None or projector.largest is None or not projector.buffers[at]:
        return ()
    usual, most = projector.buffers[at], projector.largest[at]
    evidence = f"{SOURCE}: the graph of an image, played"
    name = "compute buffer of the projector"
    return (Item(name, "temporaries", usual, safe=max(usual, most), source="rule", evidence=evidence),)


def _lines(projector: Projector) -> tuple[Printed, ...]:
    """Return the line that is logged of the buffer."""
    if projector.buffers is None:
        return ()
    mib = projector.buffers[0] / MIB
    return (Printed("mmproj_buffer_mib", f"of the projector: compute buffer size = {mib:8.2f} MiB", mib),)
