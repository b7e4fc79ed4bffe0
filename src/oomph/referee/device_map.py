"""Modules that wait in the machine's memory: accelerate's own hooks bring them. On fake tensors the meta device stands
for that memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from oomph.device_map import NONE, is_away, placed, refuse, waiting_paths
from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob


def dispatch(model: Any, raw: Mapping[str, Any], job: InferJob) -> None:
    """Put hooks on the model of a config as dispatch_model does for a map with one GPU."""
    try:
        hooks: Any = import_module("accelerate.hooks")
    except ImportError:
        raise UnsupportedError("Modules that wait need accelerate.", "Do: pip install accelerate") from None
    known = model_from_config(raw)
    job = placed(known, job)
    if job.offload == NONE:
        return
    refuse(known, job)
    paths = _as_built(model, waiting_paths(known, job.offload))
    memory = "cpu" if model.device.type == "cuda" else "meta"
    named = dict(model.named_parameters(remove_duplicate=False))
    away = {id(each) for name, each in named.items() if is_away(paths, name)}
    tied = {name.rpartition(".")[0] for name, each in named.items() if id(each) in away and not is_away(paths, name)}
    paths |= tied  # a map has both on one device
    weights = {name: torch.empty_like(each, device=memory) for name, each in named.items() if is_away(paths, name)}
    stay = [name for name, _ in model.named_modules() if name and _stays(name, paths)]
    outermost = [name for name in stay if name.rpartition(".")[0] not in stay]
    offload = dict.fromkeys(outermost, False) | dict.fromkeys(paths, True)
    devices = {"": model.device, **dict.fromkeys(offload, model.device)}
    hooks.attach_align_device_hook_on_blocks(
        model, execution_device=devices, offload=offload, weights_map=weights, tied_params_map=None
    )


def _as_built(model: Any, paths: frozenset[str]) -> frozenset[str]:
    """Return the paths with the real name of the head, which checkpoints of GPT-NeoX call otherwise."""
    names = {id(module): name for name, module in model.named_modules()}
    missing = paths - set(names.values())
    return paths - missing | {names[id(model.get_output_embeddings())] for _ in missing}


def on_fake_tensors() -> Any:
    """Return a context in which accelerate's set_module_tensor_to_device can make parameters of fake tensors."""
    return patch.object(import_module("accelerate.hooks"), "set_module_tensor_to_device", _set)


def _set(module: Any, name: str, device: Any, value: Any = None, **_: Any) -> None:
    if value is None and device != "meta":
        return  # it is there already
    made = torch.empty_like(module._parameters[name] if value is None else value, device=device)
    module._parameters[name] = torch.nn.Parameter(made, requires_grad=False)


def _stays(name: str, paths: frozenset[str]) -> bool:
    """Tell whether all of a module stays on the device."""
    return not is_away(paths, name) and not any(path.startswith(f"{name}.") for path in paths)
