"""Programs refuse what their real classes cannot run either."""

from __future__ import annotations

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.steps import step

GPT2 = {"model_type": "gpt2", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 5}


def test_more_tokens_than_learned_positions_are_refused() -> None:
    """A table of 64 positions ends a sequence of 65 tokens: one is played, the other refused, also from a kept step."""
    model = model_from_config({**GPT2, "max_position_embeddings": 64})
    assert step(model, TrainJob(1, 64)).peak > 0
    with pytest.raises(OomphError, match="has 64 positions"):
        step(model, TrainJob(1, 65))


def test_packing_is_refused_where_a_class_takes_no_position_ids() -> None:
    """BLOOM knows distances, no positions."""
    model = model_from_config({**GPT2, "model_type": "bloom"})
    with pytest.raises(OomphError, match="position ids"):
        step(model, TrainJob(1, 8, packing=True))


def test_a_classifier_without_padding_takes_one_sequence() -> None:
    """The real class raises for two."""
    raw = {**GPT2, "architectures": ["GPT2ForSequenceClassification"]}
    assert step(model_from_config(raw), TrainJob(1, 8)).peak > 0
    assert step(model_from_config({**raw, "pad_token_id": 0}), TrainJob(2, 8)).peak > 0
    with pytest.raises(OomphError, match="pad_token_id"):
        step(model_from_config(raw), TrainJob(2, 8))
