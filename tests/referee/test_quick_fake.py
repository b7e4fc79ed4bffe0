"""The quicker fake tensors are torch's: views against real tensors, what is remembered against torch's own check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oomph.job import TrainJob
from tests.referee import models

pytestmark = pytest.mark.slow

VIEWS: dict[str, Callable[[Any], Any]] = {
    "view": lambda t: t.view(6, 20),
    "view of a slice": lambda t: t[1:].view(5, 2, 6),
    "unsafe view": lambda t: (t @ t.new_ones(3, 6, 7)).flatten(1),
    "as strided": lambda t: t.as_strided((2, 5), (7, 3), 4),
    "transposed": lambda t: t.transpose(0, 2).t() if t.dim() == 2 else t.transpose(0, 2),
    "matrix transposed": lambda t: t[0].t(),
    "permuted": lambda t: t.permute(2, 0, 1),
    "one of many": lambda t: t.select(-1, 3),
    "every other": lambda t: t[:, 1:5:2],
    "expanded": lambda t: t[:, :1].expand(3, 9, 8)[1:],
    "dimension of one": lambda t: t.unsqueeze(1).squeeze(1),
    "alias": lambda t: t.detach(),
}
SIZES = {"view": (3, 5, 8), "unsafe view": (3, 4, 6), "view of a slice": (2, 5, 12)}


def said(tensor: Any) -> tuple[Any, ...]:
    storage = tensor.untyped_storage()
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, storage.nbytes()


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_those_of_real_tensors(name: str) -> None:
    """Sizes, strides, offset and the storage behind them, the second time too."""
    import torch

    from oomph.referee.fake import fake_tensors

    def view() -> Any:
        return VIEWS[name](torch.ones(SIZES.get(name, (3, 5, 8)), dtype=torch.bfloat16))

    real = said(view())
    with fake_tensors():
        assert said(view()) == said(view()) == real


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        (models.LLAMA, {"accumulation": 2, "clip_gradients": True, "padding": True}),
        (models.GPT2, {"precision": "fp32", "checkpointing": "non-reentrant", "optimizer": "sgd-momentum"}),
        (models.MIXTRAL, {"attention": "math", "checkpointing": "reentrant", "implementation": "loop"}),
    ],
    ids=["llama", "gpt2", "mixtral"],
)
def test_what_is_remembered_is_what_torch_works_out(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    """torch's own check works out every remembered answer again and compares; the events stay the same."""
    import torch._dynamo.config

    from oomph.referee.trace import trace

    job = TrainJob(**{"batch": 2, "seq_len": 37, **changes})
    found = trace(raw, job)
    with torch._dynamo.config.patch(fake_tensor_cache_crosscheck_enabled=True):
        assert trace(raw, job).stream == found.stream
