"""estimate == trace for GPT-like families and encoders: every event of a step and of a pass equals the real code's."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from oomph.families.heads import headed
from oomph.job import TrainJob
from tests.referee import models
from tests.tape.gptlike import FAMILIES, playable
from tests.tape.grid import compare

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("family", "index"), product(FAMILIES, range(3)))
def test_every_event_equals_the_trace(family: str, index: int) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(*playable(family, index))
    assert parting is None, str(parting)
    assert ours == theirs


BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 515, "hidden_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        (BERT, {"task": "sequence-classification", "labels": 3, "precision": "amp-fp16"}),
        (BERT, {"task": "sequence-classification", "labels": 1, "autocast": True}),
        (BERT, {"task": "masked-lm", "padding": True}),
        ({**models.LLAMA, "pad_token_id": 0}, {"task": "sequence-classification", "labels": 1, "autocast": True}),
    ],
)
def test_a_task_gives_both_the_same_head(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    """Whatever head a config names, estimate and trace take that of the job's task, one label being a regression."""
    job = TrainJob(batch=2, seq_len=37, **changes)
    parting, ours, theirs = compare(headed(raw, job.task, job.labels), job)
    assert parting is None, str(parting)
    assert ours == theirs
