"""The packages flash-linear-attention, mamba-ssm and causal-conv1d in a trace: their Python code, launches left out.

transformers' own way to them runs too: the decorator by which a class takes a function of a package where it finds one.
The code that runs is that for an H100.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, library

from oomph.errors import UnsupportedError
from oomph.job import InferJob, TrainJob
from oomph.ops.delta_chunks import CHUNK
from oomph.programs.mixer_packages import named
from oomph.referee.losses import without_triton

# Packages by the words of --mixers, and how they are had without a GPU.
PACKAGES = {"fla": "fla", "mamba-ssm": "mamba_ssm", "causal-conv1d": "causal_conv1d"}
PIP = {
    "fla": "pip install --no-deps fla-core",
    "mamba-ssm": "MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE"
    " pip install --no-deps --no-build-isolation mamba-ssm einops",
    "causal-conv1d": "CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE"
    " pip install --no-deps --no-build-isolation causal-conv1d",
}
# By the names of transformers' functions: what takes their place, and of which package.
FUNCTIONS = {
    "torch_chunk_gated_delta_rule": ("chunk_gated_delta_rule", "fla"),
    "torch_recurrent_gated_delta_rule": ("fused_recurrent_gated_delta_rule", "fla"),
    "chunk_kimi_delta_attention": ("chunk_kda", "fla"),
    "recurrent_kimi_delta_attention": ("fused_recurrent_kda", "fla"),
    "mamba_inner_fn": ("mamba_inner_fn", "mamba_ssm"),
    "mamba_selective_scan": ("selective_scan_fn", "mamba_ssm"),
    "mamba_selective_state_update": ("selective_state_update", "mamba_ssm"),
    "mamba2_split_conv1d_scan_combined": ("mamba_split_conv1d_scan_combined", "mamba_ssm"),
    "mamba2_chunk_scan": ("mamba_chunk_scan_combined", "mamba_ssm"),
    "mamba2_selective_state_update": ("selective_state_update", "mamba_ssm"),
    "causal_conv1d_fn": ("causal_conv1d_fn", "causal_conv1d"),
    "causal_conv1d_update": ("causal_conv1d_update", "causal_conv1d"),
}
COMPILED = "causal_conv1d_cuda"
LAUNCHES = ("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update")


@contextmanager
def installed(model: Any, job: TrainJob | InferJob, mode: Any = None, real: bool = False) -> Iterator[None]:
    """Let the classes of a model find the packages of a job inside, and no others though they are there; `real` ones
    launch what they launch. `mode` are fake tensors that answer how many chunks there are, None where they are real.

    Raises UnsupportedError: one is asked for and not there.
    """
    words = job.mixers.split("+")
    if job.mixers == "torch" and not any(map(find_spec, PACKAGES.values())):
        yield
        return
    found: dict[str, Any] = {}
    for word, package in PACKAGES.items():
        if word in words and not find_spec(package):
            fix = f"pip install {named((word,))}" if real else PIP[word]
            raise UnsupportedError(f"The mixers {job.mixers} need {named((word,))}.", f"Do: {fix}")
        found |= {package: None} if word not in words else {} if real else _modules(word)
    choose = import_module("transformers.integrations.hub_kernels").use_kernel_func_from_hub_with_fallback
    with ExitStack() as stack:
        stack.enter_context(_found(found))
        if "fla" in words and not real:
            stack.enter_context(_remembering_nothing())
        if mode is not None and isinstance(job, TrainJob) and job.packs:
            stack.enter_context(patch.object(mode, "repeated", _chunks(job)))
        for module in {sys.modules[type(each).__module__] for each in model.modules()}:
            for name in FUNCTIONS.keys() & vars(module).keys():
                own = getattr(getattr(module, name), "__wrapped__", None)
                if own is not None:  # else its class asks for no package
                    stack.enter_context(patch.object(module, name, choose(*FUNCTIONS[name])(own)))
        yield


def _chunks(job: TrainJob) -> int:
    """Return how many chunks sequences have that are all as long as the longest."""
    longest = -(-job.shape[1] // job.sequences_in_row)
    return job.sequences_in_row * -(-longest // CHUNK)


@contextmanager
def _remembering_nothing() -> Iterator[None]:
    """Let functions of fla that remember what they were called with do so from here on, and forget it in the end."""
    index = import_module("fla.ops.utils.index")
    cells = [cell.cell_contents for each in vars(index).values() for cell in getattr(each, "__closure__", None) or ()]
    known = [each for each in cells if isinstance(each, deque)]
    for each in known:
        each.clear()
    try:
        yield
    finally:
        for each in known:
            each.clear()


@cache
def _modules(word: str) -> dict[str, ModuleType]:
    """Return a package's modules, which are then taken away: nobody else is to find them by chance."""
    IMPORTS[word]()
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGES[word]]
    return {name: sys.modules.pop(name) for name in names}


def _import_causal_conv1d() -> None:
    """Import the package without its operators' registration, which would not call what stands for the kernels."""
    launches = ModuleType(COMPILED)
    vars(launches).update(dict.fromkeys(LAUNCHES, lambda *args: None))  # results are handed to them
    vars(launches)["causal_conv1d_bwd"] = _causal_conv1d_bwd
    as_it_is = lambda *args, **kwargs: lambda function: function  # noqa: E731
    with _found({COMPILED: launches}), patch.object(library, "custom_op", as_it_is):
        import_module("causal_conv1d")


def _causal_conv1d_bwd(x: Tensor, weight: Any, bias: Any, dout: Tensor, *rest: Any) -> None:
    """Allocate what the host code does (csrc/causal_conv1d.cpp): a gradient that lies as x does."""
    if x.stride(1) == 1 and x.stride(2) > 1:
        if dout.stride(1) != 1:
            dout = dout.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif dout.stride(2) != 1:
        dout = dout.contiguous()


def _import_mamba_ssm() -> None:
    from oomph.referee import mamba_ssm

    with _found(_modules("causal-conv1d") if find_spec("causal_conv1d") else {}):
        mamba_ssm.imported()


def _import_fla() -> None:
    """Import what the functions are made of, for an H100; its packages' own files would import all that it has."""
    sys.modules.update({name: _folder(name) for name in ("fla", "fla.ops", "fla.modules")})
    with without_triton():
        utils = import_module("fla.utils")
        vars(utils).update(
            check_shared_mem=lambda *args: True,
            autocast_custom_fwd=partial(torch.amp.custom_fwd, device_type="cpu"),
            autocast_custom_bwd=partial(torch.amp.custom_bwd, device_type="cpu"),
        )
        for name in ("gated_delta_rule", "kda"):
            import_module(f"fla.ops.{name}")


IMPORTS = {"fla": _import_fla, "mamba-ssm": _import_mamba_ssm, "causal-conv1d": _import_causal_conv1d}


def _folder(name: str) -> ModuleType:
    """Return a package of fla's that does nothing."""
    made = ModuleType(name)
    root = Path(str(PathFinder.find_spec("fla").origin)).parent  # type: ignore[union-attr]
    vars(made).update(__path__=[str(root.joinpath(*name.split(".")[1:]))], __version__=version("fla-core"))
    return made


@contextmanager
def _found(modules: Mapping[str, Any]) -> Iterator[None]:
    """Let imports find these modules inside; for None they find nothing."""
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        sys.modules.update(before)
