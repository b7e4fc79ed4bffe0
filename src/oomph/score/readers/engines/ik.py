"""Rows of ik_llama.cpp's start-up log, as far as its compute buffers go.

What a log does not say is read off its other lines: which experts are with the host, and in which types, off the sizes
of weights and file; the build off the number of the thread that it was posted to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from oomph.engines.ik import IkServed
from oomph.engines.ik.compute import IkQuestion, buffers
from oomph.engines.ik.setup import SPRING_2025, SUMMER_2025, IkBuild
from oomph.engines.llamacpp.file import FileTensor
from oomph.engines.llamacpp.placing import Loaded
from oomph.formats.gguf_types import BY_NAME, GgmlType
from oomph.score.readers.engines.llamacpp_log import devices, lines_of
from oomph.score.reading import Answer, refuse, shown
from oomph.units import GIB, MIB

BUILD = "b3811"  # of July 2025: layers are divided as older builds do
SAID = (
    "the build is not said: as of May 2025 in threads begun before, as of July 2025 in others, one batch under way",
    "-ot is not said: experts are with the host, but for those of first layers that a GPU's weights have room for",
    "-rtr is not said: weights of the host are repacked where they are not mapped",
)
MIXED_SINCE_THREAD = 437  # threads from here on were begun when CUDA multiplied with rows of four, or nearly
LATE_MODELS = ("0528", "Kimi")  # published after that, wherever they are spoken of
DECIMALS = 2  # of what the log prints in MiB
_KNOWN = re.compile(r"CPU|CUDA(_Host|\d{1,2})")
EXPERTS = re.compile(r"ffn_(up|gate|down)_exps\.")
NEAR = 0.995  # what a size read off a rounded number may be short of
_THREAD = re.compile(r"/(?:discussions|issues|pull)/(\d{1,6})$")
_BITS = re.compile(r"\((\d{1,3}\.\d{1,6}) BPW")
BITS = 8  # of a byte
MOST_ABOVE = 1.5  # a mix has no more bits than so many times those of the type it is called after
_SIZE = re.compile(r"(\d{1,7}\.\d{1,6}) GiB")


def question(served: IkServed, row: Mapping[str, Any], weights: Mapping[str, float], mapped: bool) -> IkQuestion | None:
    """Return what the buffers are asked for; `weights` are the MiB of weights that the log has for each device."""
    asked = served.asked(_build(row))
    if asked is None or not any(EXPERTS.search(tensor.name) for tensor, _ in asked.loaded.tensors):
        return asked
    named, bits = _named(row), _BITS.search(str(row.get("file_size"))[:40])
    if named and bits and not 1 < float(bits[1]) * named.block / (BITS * named.size) < MOST_ABOVE:
        raise refuse(f"quant {shown(row.get('quant'))}", "the file is too small or too large to be of this type")
    kinds = _types(asked, row)
    tensors = [(replace(each, type=kind), at) for (each, at), kind in zip(asked.loaded.tensors, kinds, strict=True)]
    placed = tuple(_placed(tensors, weights)) if asked.gpus else tuple(tensors)
    words = str(row.get("cmd"))
    repack = " -rtr" in words or not (mapped or "--no-mmap" in words)
    return replace(asked, loaded=Loaded(asked.loaded.file, placed), repack=repack)


def computed(served: IkServed, row: Mapping[str, Any], name: str) -> Answer:
    """Return the buffers on GPUs, or that of the host, as they are printed."""
    kinds = dict.fromkeys(devices(row, "compute"))
    strange = [each for each in kinds if not _KNOWN.fullmatch(each)]
    if strange or {"CPU", "CUDA_Host"} <= kinds.keys():
        raise refuse(name, f"{shown(strange[0]) if strange else 'a library for the CPU'} computes beside CUDA and CPU")
    weights: dict[str, float] = {}
    for line in lines_of(row, "model"):
        if isinstance(line, list) and len(line) == 2 and isinstance(line[1], (int, float)):
            weights[str(line[0])] = float(line[1])
    asked = question(served, row, weights, mapped="CUDA_Host" not in weights)
    if asked is None:
        what = f"ik_llama.cpp's graph of {shown(served.sizes.arch)} is not known, or not this model's config"
        raise refuse(name, what)
    of_device = buffers(asked, served.job.context or 1)
    value = of_device[-1] if name == "host_buffer_mib" else sum(of_device.values()) - of_device[-1]
    if not value:
        raise refuse(name, "no such buffer with these settings")
    printed = round(value / MIB, DECIMALS) * MIB
    return Answer(printed, printed)


def _build(row: Mapping[str, Any]) -> IkBuild:
    thread = _THREAD.search(str(row.get("source_url"))[:200])
    late = any(each in str(row.get("model")) for each in LATE_MODELS)
    return SUMMER_2025 if late or (thread and int(thread[1]) >= MIXED_SINCE_THREAD) else SPRING_2025


def _types(asked: IkQuestion, row: Mapping[str, Any]) -> Iterator[GgmlType]:
    """Yield the type of each tensor: up and gate maps of experts have the one that the file is called after.

    What is left of the file's size, everything else in Q8_0, is the down maps': the least type that has so much.
    """
    named = _named(row)
    tensors = asked.loaded.tensors
    if named is None or named.block == 1:
        yield from (tensor.type for tensor, _ in tensors)
        return
    size = _SIZE.match(str(row.get("file_size"))[:40])
    down = [tensor for tensor, _ in tensors if "ffn_down_exps" in tensor.name]
    others = [tensor for tensor, _ in tensors if not EXPERTS.search(tensor.name)]
    gated = [tensor for tensor, _ in tensors if EXPERTS.search(tensor.name) and "ffn_down_exps" not in tensor.name]
    left = float(size[1]) * GIB if size else 0.0
    left -= sum(each.n_bytes for each in others) + sum(named.tensor_bytes(each.shape) for each in gated)
    of_down = _least(named, down[0], left / len(down)) if down and left > 0 else named
    for tensor, _ in tensors:
        part = EXPERTS.search(tensor.name)
        yield tensor.type if part is None else of_down if part[1] == "down" else named


def _named(row: Mapping[str, Any]) -> GgmlType | None:
    return BY_NAME.get(str(row.get("quant")).partition(" ")[0])


def _least(named: GgmlType, tensor: FileTensor, n_bytes: float) -> GgmlType:
    """Return the least type of the same kind of rows that takes so much for a tensor."""
    rows = named.name.partition("_R")[1]
    fitting = [
        (kind.tensor_bytes(tensor.shape), name)
        for name, kind in BY_NAME.items()
        if kind.block > 1 and name.partition("_R")[1] == rows and tensor.shape[-1] % kind.block == 0
    ]
    return BY_NAME[min(((n, name) for n, name in fitting if n >= NEAR * n_bytes), default=(0, named.name))[1]]


def _placed(
    tensors: Sequence[tuple[FileTensor, int]], weights: Mapping[str, float]
) -> Iterator[tuple[FileTensor, int]]:
    """Yield each tensor with its device: experts are with the host, but for those of a GPU's first layers.

    How many layers those are, the size of its weights tells.
    """
    room: dict[int, float] = {}
    for tensor, at in tensors:
        if at >= 0:
            room.setdefault(at, weights.get(f"CUDA{at}", 0.0) * MIB)
            if not EXPERTS.search(tensor.name):
                room[at] -= tensor.n_bytes
    of_layer: dict[int, int] = {}
    for tensor, _ in tensors:
        if EXPERTS.search(tensor.name):
            of_layer[tensor.layer] = of_layer.get(tensor.layer, 0) + tensor.n_bytes
    stay: dict[int, bool] = {}
    for tensor, at in tensors:
        if at >= 0 and EXPERTS.search(tensor.name) and tensor.layer not in stay:
            stay[tensor.layer] = room[at] >= of_layer[tensor.layer]
            room[at] -= of_layer[tensor.layer] * stay[tensor.layer]
        yield tensor, at if stay.get(tensor.layer, True) or not EXPERTS.search(tensor.name) else -1
