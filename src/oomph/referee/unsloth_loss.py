"""Unsloth's fused loss in a trace, its own files run as on a GPU above 24 GiB: with Triton, launches doing nothing.

fused_linear.py and chunked_logprob.py of unsloth_zoo are taken as they are. Its operator for torch.compile, which a
trace would not look into, is replaced by what it calls; what asks a GPU for something is answered here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any
from unittest.mock import patch

import torch

from oomph.errors import UnsupportedError
from oomph.referee.losses import without_triton
from oomph.referee.unsloth_checkpoints import UNSLOTH_ZOO

PACKAGE = "unsloth_zoo"
FREE_GB = 64.0  # more than any of its budgets asks for
LARGE_CARD_ROWS = 4096  # tokens from which on such a card takes tiles


def install(model: Any) -> None:
    """Give a model the end of CausalLM_fast_forward: its hidden states go to unsloth_fused_ce_loss."""
    loss = _files().unsloth_chunked_ce_loss

    def forward(self: Any, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import CausalLMOutputWithPast

        outputs = self.model(input_ids=input_ids, **kwargs)
        hidden_states = outputs[0]
        lm_head = self.lm_head.weight
        with _labelled(labels):
            found = loss(hidden_states, lm_head, None, labels)
        return CausalLMOutputWithPast(loss=found, past_key_values=outputs.past_key_values)

    model.forward = MethodType(forward, model)


@contextmanager
def _labelled(labels: Any) -> Iterator[None]:
    """Let all tokens count inside but each sequence's last, which has no next one."""
    count = labels.numel() - labels.shape[0]
    with patch.object(torch.Tensor, "nonzero", lambda mask: torch.empty((count, mask.dim()), dtype=torch.int64)):
        yield


@cache
def _files() -> Any:
    """Return chunked_logprob.py, with fused_linear.py beneath it."""
    found = PathFinder.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UnsupportedError("A trace of Unsloth's loss needs unsloth_zoo.", f"Do: {UNSLOTH_ZOO}")
    root = Path(next(iter(found.submodule_search_locations)))
    stands = {name: ModuleType(name) for name in (PACKAGE, f"{PACKAGE}.fused_losses", f"{PACKAGE}.temporary_patches")}
    for name, module in stands.items():
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    common, tiled = f"{PACKAGE}.temporary_patches.common", f"{PACKAGE}.tiled_mlp"
    stands |= {name: ModuleType(name) for name in (common, tiled)}
    vars(stands[common]).update(CHUNK_ALIGN_ROWS=0, torch_compile_options={})
    vars(stands[tiled])["_default_target_gb"] = lambda device: FREE_GB
    with without_triton(), patch.dict(sys.modules, stands):
        chunked = import_module(f"{PACKAGE}.fused_losses.chunked_logprob")
        linear = import_module(f"{PACKAGE}.fused_losses.fused_linear")
        sys.modules.pop(chunked.__name__)
    sys.modules[linear.__name__] = linear  # which the other asks for by name when it is called
    vars(linear).update(
        _use_triton=lambda device: True, _launch=lambda device, fn: fn(), _flash_ce_ok=lambda device: True,
        _flash_min_rows=lambda device: LARGE_CARD_ROWS, _budget_bytes=lambda device: int(linear._CHUNK_GB * 2**30),
        _logits_mode=lambda device, dtype: (True, False), _mm_fp32=_product, _addmm_fp32=_added,
    )  # fmt: skip
    operators = torch.ops.unsloth_zoo
    setattr(operators, linear._CE_OP, _operator(linear).apply)
    operators.fused_linear_scale_rows = linear._scale_rows_impl
    return chunked


def _product(a: Any, b: Any, out: Any = None) -> Any:
    """Stand for torch.mm with an fp32 result."""
    return torch.empty((a.shape[0], b.shape[1]), dtype=torch.float32) if out is None else out


def _added(acc: Any, a: Any, b: Any) -> None:
    """Stand for a product added in place."""


def _operator(linear: Any) -> Any:
    """Return its operator as the autograd function that PyTorch makes of it, its body in sight."""

    class FusedLinearCE(torch.autograd.Function):  # type: ignore[misc]
        """What `fused_linear_ce` calls, its context and its backward."""

        @staticmethod
        def forward(hidden: Any, weight: Any, bias: Any, targets: Any, *args: Any) -> Any:
            """Check the labels as on a GPU, then call the body."""
            ignored, vocab = args[2], weight.shape[0]
            bad = (targets != ignored) & ((targets < 0) | (targets >= vocab))
            ok = torch.logical_not(bad.any())  # noqa: F841  asserted there; both live to the end
            return linear._ce_impl(hidden, weight, bias, targets, *args)

        setup_context = staticmethod(linear._ce_setup)
        backward = staticmethod(linear._ce_backward)

    return FusedLinearCE
