"""The losses that others put into a transformers model, installed as they do it: the real code where it can be had.

What only launches Triton kernels runs without Triton: a kernel writes into tensors that are there and allocates none.
What an older transformers did itself is written down here, from its source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, spec_from_loader
from types import MethodType, ModuleType
from typing import Any, cast
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError

LIGER = "pip install --no-deps liger-kernel"
FOAK = "pip install --no-deps fms-acceleration-foak"
CUT = "pip install --no-deps cut-cross-entropy"
OWN = frozenset({"hf", "mean", "logits"})  # mean: no labels are handed over
IGNORED = -100


def install(model: Any, loss: str) -> None:
    """Give a model, or the one that PEFT wrapped, the loss of a job."""
    model = unwrapped(model)
    if loss in OWN:
        if loss == "mean":
            _upcast(model)
        return
    if loss not in INSTALL:
        raise UnsupportedError(f"There is no real code for the loss {loss} here to trace.", "Take another loss.")
    INSTALL[loss](model)


def unwrapped(model: Any) -> Any:
    """Return transformers' own model inside PEFT's."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _upcast(model: Any) -> None:
    """Make the logits fp32 in the model, as transformers did up to 4.45."""
    model.lm_head.register_forward_hook(lambda module, args, logits: logits.float())


def _hf_4_46(model: Any) -> None:
    model.loss_function = _upcast_loss


def _hf_4_45(model: Any) -> None:
    _upcast(model)
    model.loss_function = _shifted_loss


def _shifted(model: Any) -> None:
    model.loss_function = _shifted_loss


def _upcast_loss(logits: Any, labels: Any, vocab_size: int, **kwargs: Any) -> Any:
    """Mirror ForCausalLMLoss of transformers 4.48."""
    logits = logits.float()
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = labels[..., 1:].contiguous()
    shift_logits = shift_logits.view(-1, vocab_size)
    shift_labels = shift_labels.view(-1)
    return torch.nn.functional.cross_entropy(shift_logits, shift_labels, ignore_index=IGNORED)


def _shifted_loss(logits: Any, labels: Any, vocab_size: int, **kwargs: Any) -> Any:
    """Mirror what LlamaForCausalLM.forward of transformers 4.45 does with its logits."""
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = labels[..., 1:].contiguous()
    shift_logits = shift_logits.view(-1, vocab_size)
    shift_labels = shift_labels.view(-1)
    return torch.nn.functional.cross_entropy(shift_logits, shift_labels)


def _liger(model: Any) -> None:
    """Let Liger put its forward pass in, as apply_liger_kernel_to_llama(fused_linear_cross_entropy=True) does."""
    if not find_spec("liger_kernel"):
        raise UnsupportedError("A trace of Liger's loss needs liger-kernel.", f"Do: {LIGER}")
    with without_triton():
        where = import_module(f"liger_kernel.transformers.model.{model.config.model_type}")
    model.forward = MethodType(where.lce_forward, model)


def _fused(model: Any) -> None:
    model.loss_function = foak("kernels.unsloth.cross_entropy_loss").FastForCausalLMLoss


def _fused_4_45(model: Any) -> None:
    _upcast(model)
    _fused_shifted(model)


def _fused_shifted(model: Any) -> None:
    loss = foak("kernels.unsloth.cross_entropy_loss").FastCrossEntropyLoss

    def shifted_loss(logits: Any, labels: Any, vocab_size: int, **kwargs: Any) -> Any:
        shift_logits = logits[..., :-1, :].contiguous()
        shift_labels = labels[..., 1:].contiguous()
        loss_fct = loss()
        shift_logits = shift_logits.view(-1, vocab_size)
        shift_labels = shift_labels.view(-1)
        return loss_fct(shift_logits, shift_labels)

    model.loss_function = shifted_loss


def _unsloth_2024(model: Any) -> None:
    """Mirror the end of CausalLM_fast_forward in 2024, with the kernel that fms-acceleration took from it."""
    kernel = foak("kernels.unsloth.cross_entropy_loss").Fast_CrossEntropyLoss

    def fast_cross_entropy_loss(logits: Any, labels: Any) -> Any:
        batch, length, width = logits.shape
        loss = kernel.apply(logits.view(batch * length, width), labels.view(-1))
        n_items = torch.count_nonzero(labels != IGNORED)
        return loss.sum() / n_items

    def loss_function(logits: Any, labels: Any, vocab_size: int, **kwargs: Any) -> Any:
        shift_labels = torch.empty_like(labels)
        return fast_cross_entropy_loss(logits, shift_labels)

    model.loss_function = loss_function


def _liger_fms(model: Any) -> None:
    model.forward = MethodType(foak("fused_ops.liger_ce.fused_linear_cross_entropy_loss").lce_forward, model)


def _cut(model: Any) -> None:
    if not find_spec("cut_cross_entropy"):
        raise UnsupportedError("A trace of cut cross entropy needs its package.", f"Do: {CUT}")
    with without_triton(), patch.object(torch, "compile", lambda *args, **kwargs: lambda function: function):
        found = import_module("cut_cross_entropy").linear_cross_entropy

    def forward(self: Any, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        outputs = self.model(input_ids=input_ids, **kwargs)
        hidden_states = outputs[0]
        loss = found(hidden_states, self.lm_head.weight, labels, shift=True)
        return CausalLMOutputWithPast(loss=loss, past_key_values=outputs.past_key_values)

    model.forward = MethodType(forward, model)


def _fused_head(model: Any) -> None:
    from oomph.referee.trl import fused_head

    fused_head(model)


def _chunked_nll(model: Any) -> None:
    from oomph.referee.trl import chunked_nll

    chunked_nll(model)


def _unsloth(model: Any) -> None:
    from oomph.referee.unsloth_loss import install as fused_loss

    fused_loss(model)


INSTALL: dict[str, Any] = {
    "hf-fp32": _upcast,
    "hf-4.46": _hf_4_46,
    "hf-4.45": _hf_4_45,
    "shifted": _shifted,
    "liger": _liger,
    "liger-fms": _liger_fms,
    "fused": _fused,
    "fused-4.45": _fused_4_45,
    "fused-shifted": _fused_shifted,
    "cut": _cut,
    "fused-head": _fused_head,
    "chunked-nll": _chunked_nll,
    "unsloth": _unsloth,
    "unsloth-2024": _unsloth_2024,
}


def foak(name: str) -> Any:
    """Return a file of fms-acceleration-foak without its package, which would import all of fms-acceleration."""
    from importlib.machinery import PathFinder

    found = PathFinder.find_spec("fms_acceleration_foak")
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError("A trace of this loss needs fms-acceleration-foak.", f"Do: {FOAK}")
    root, *_ = found.submodule_search_locations
    with without_triton():
        package = ModuleType("fms_acceleration_foak")
        package.__path__ = [root]
        parts = name.split(".")
        sys.modules.setdefault("fms_acceleration_foak", package)
        for at in range(1, len(parts)):
            dotted = ".".join(parts[:at])
            between = ModuleType(f"fms_acceleration_foak.{dotted}")
            between.__path__ = ["/".join([root, *parts[:at]])]
            sys.modules.setdefault(between.__name__, between)
        made = import_module(f"fms_acceleration_foak.{name}")
    vars(made)["torch"] = _OnOneDevice()
    return made


class _OnOneDevice:
    """torch for code that asks for "cuda" by name: the trace's device is called "cpu"."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        """Return torch.empty, wherever it is asked for."""
        return torch.empty(*args, **kwargs)


class Kernel:
    """Stands for a Triton kernel, or for what tunes one: launching it does nothing."""

    arg_names: tuple[str, ...] = ()
    user_defined_pre_hook = user_defined_post_hook = True
    __name__ = "kernel"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **kwargs: None


class _Module(ModuleType):
    """Stands for a module of Triton: whatever is asked of it is there, and called it hands back a function it got."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        dotted = f"{self.__name__}.{name}"
        return TRITON.get(dotted) or _Module(dotted)

    def __or__(self, other: Any) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and callable(args[0]) else self


class _Config:
    """Stands for triton.Config: block sizes nobody reads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @staticmethod
    def all_kwargs() -> dict[str, Any]:
        """Return none."""
        return {}


class _Constant:
    """Stands for triton.language.constexpr, whose value code on the host asks for."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _jit(*args: Any, **kwargs: Any) -> Any:
    return Kernel() if args else lambda function: Kernel()


TRITON: dict[str, Any] = {
    "triton.Config": _Config,
    "triton.language.constexpr": _Constant,
    "triton.jit": _jit,
    "triton.experimental.gluon.jit": _jit,
    "triton.heuristics": lambda *args, **kwargs: lambda function: function,
    "triton.autotune": lambda *args, **kwargs: lambda function: function,
    "triton.runtime.autotuner.Autotuner": Kernel,
    "triton.runtime.driver.active": object(),  # which knows no device
    "triton.cdiv": lambda a, b: (a + b - 1) // b,  # as it is written, of tensors too
    "triton.next_power_of_2": lambda n: 1 << (int(n) - 1).bit_length(),
}


class _Finder:
    """Finds every module of Triton."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of a stand-in."""
        return spec_from_loader(name, cast("Any", _Finder)) if name.split(".")[0] == "triton" else None

    @staticmethod
    def create_module(spec: Any) -> Any:
        """Return the stand-in."""
        made = _Module(spec.name)
        vars(made).update(__version__="3.0.0", __path__=[])
        return made

    @staticmethod
    def exec_module(module: Any) -> None:
        """Do nothing: there is nothing in it."""


@contextmanager
def without_triton() -> Iterator[None]:
    """Import inside as if Triton were there, launches doing nothing; where Triton is, it is taken."""
    import_module("torch.utils.flop_counter")  # asks for Triton when it is imported
    from torch.utils._triton import has_triton_package

    if has_triton_package():  # what it says is remembered: torch's compiler does not see the stand-in
        yield
        return
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)
        for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
            del sys.modules[name]
