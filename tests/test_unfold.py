"""Events of few layers, repeated, are those of all layers: each in its place, and each free of the right tensor."""

from __future__ import annotations

from typing import Any

import pytest

from oomph import streams
from oomph.families import model_from_config
from oomph.fold import Unfoldable
from oomph.job import InferJob, TrainJob
from oomph.methods import layers_path
from oomph.model import Model
from oomph.structure import Job
from oomph.unfold import Spelled, deeper
from tests.configs import LLAMA_3_8B

LAYERS = 12
TINY = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 999, "num_attention_heads": 4}
LLAMA = {**LLAMA_3_8B, **TINY, "num_key_value_heads": 2, "num_hidden_layers": LAYERS}
GPT2 = {"model_type": "gpt2", **TINY, "num_hidden_layers": LAYERS}
BERT = {"model_type": "bert", "architectures": ["BertModel"], **TINY, "num_hidden_layers": 20}
GEMMA_2 = {"model_type": "gemma2", **TINY, "num_key_value_heads": 2, "num_hidden_layers": 20, "head_dim": 16}
JOBS: list[tuple[dict[str, Any], Job]] = [
    (LLAMA, TrainJob(1, 16, clip_gradients=True, accumulation=2)),
    (LLAMA, TrainJob(1, 16, checkpointing="non-reentrant", implementation="loop", zero_grad="before-forward")),
    (LLAMA, TrainJob(1, 16, checkpointing="reentrant", precision="amp-bf16", hold_logits=False)),
    (LLAMA, TrainJob(1, 16, optimizer="adafactor", accumulation=2, zero_grad="before-backward")),
    (LLAMA, TrainJob(1, 16, optimizer="muon", checkpointing="reentrant")),
    (LLAMA, TrainJob(1, 16, optimizer="galore_adamw", update_projection=True)),
    (LLAMA, TrainJob(1, 16, optimizer="lomo", steady=False)),
    (LLAMA, TrainJob(1, 16, optimizer_in_backward=True)),
    (LLAMA, TrainJob(1, 16, method="qlora", checkpointing="reentrant", adapter_dropout=0.1)),
    (LLAMA, TrainJob(1, 16, method="dora", targets="all-linear", keep_outputs=True)),
    (LLAMA, TrainJob(1, 16, objective="dpo", method="lora", checkpointing="non-reentrant")),
    (BERT, TrainJob(3, 16, objective="contrastive", negatives=1, anchor_len=8, precision="amp-bf16")),
    (BERT, TrainJob(3, 16, objective="contrastive-cached", mini_batch_size=2, checkpointing="reentrant")),
    (GPT2, TrainJob(1, 16, attention="eager", precision="amp-fp16")),
    (GEMMA_2, TrainJob(1, 16, attention="eager")),
    (GEMMA_2, InferJob(1, 16, decode=2)),
    (LLAMA, InferJob(1, 16, decode=2, cache="static")),
]


@pytest.mark.parametrize("at", range(len(JOBS)))
def test_few_layers_tell_every_event_of_many(at: int) -> None:
    """Events, marks, and what was allocated as what are those of the job played in full."""
    raw, job = JOBS[at]
    model = model_from_config(raw)
    found, expected = _written(model, job, streams._unfolded), _written(model, job, streams._in_full)
    assert found == expected


def _written(model: Model, job: Job, way: Any) -> tuple[list[int], list[tuple[Any, ...]], list[tuple[int, str]]]:
    from oomph.fold import Classes

    classes = Classes(layers_path(model, job))
    events = way(model, job, classes)
    assert events is not None
    kinds = list(classes.numbers)
    return events.events, [kinds[kind] for kind in events.kinds], events.marks


def test_what_follows_no_pattern_is_told() -> None:
    """Nothing is guessed: what comes more must come twice, and each free must have a place that stays."""
    few = Spelled([0, ~0, 1], [(0, 0), (0, -1), (0, 0)])
    once = Spelled([0, ~0, 0, ~0, 1], [(0, 0), (0, -1), (0, 0), (0, -1), (0, 0)])
    twice = Spelled([0, ~0, 0, ~0, 0, ~0, 1], [*[(0, 0), (0, -1)] * 3, (0, 0)])
    moving = Spelled(twice.names, [(0, 0), (0, -1), (0, 0), (0, -2), (0, 0), (1, -3), (0, 0)])
    assert deeper(few, twice, 4).events == [at for ordinal in range(5) for at in (ordinal, ~ordinal)] + [5]
    for other in (once, moving):
        with pytest.raises(Unfoldable):
            deeper(few, other, 4)


def test_a_model_of_few_layers_is_played_in_full() -> None:
    """Where the two plays have as many layers together as the model, they tell nothing sooner."""
    from oomph.fold import Classes

    model = model_from_config({**LLAMA, "num_hidden_layers": 8})
    assert streams._unfolded(model, TrainJob(1, 16), Classes("model.layers")) is None
