"""estimate == trace for encoders beside BERT: every event of a step equals the real code's; layers fold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.programs.attention_kernels import kernel_note
from oomph.steps import step
from tests.tape.encoders import FAMILIES, playable
from tests.tape.grid import compare


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_event_equals_the_trace(family: str) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(*playable(family, 0))
    assert parting is None, str(parting)
    assert ours == theirs


BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 515, "hidden_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
ELECTRA = {**BERT, "model_type": "electra", "architectures": ["ElectraForMaskedLM"], "embedding_size": 24}
ALBERT = {**ELECTRA, "model_type": "albert", "architectures": ["AlbertForMaskedLM"], "num_hidden_layers": 2}
MPNET = {**BERT, "model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]}
XLM_ROBERTA = {**BERT, "model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}


@pytest.mark.slow
@pytest.mark.parametrize("raw", [BERT, ELECTRA, ALBERT, MPNET, XLM_ROBERTA])
def test_adapters_stand_where_peft_puts_them(raw: dict[str, Any]) -> None:
    """On every linear map of layers and heads, but not on what gives the logits."""
    job = TrainJob(batch=2, seq_len=9, method="lora", targets="all-linear", steady=False)
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_fold(family: str) -> None:
    """A deeper model's peak, told from few layers, is the one played in full, at any length."""
    raw, job = playable(family, 2)
    model = model_from_config(raw | {"num_hidden_layers": 8, "n_layers": 8})
    for seq_len in (9, 64):
        other = replace(job, seq_len=seq_len, keep_outputs=False)
        assert step(model, other).peak == max(train_step(model, other).live)


@pytest.mark.parametrize(
    ("changes", "job", "reason"),
    [
        ({"norm_rel_ebd": "layer_norm"}, {"checkpointing": "reentrant"}, "fails on the second"),
        ({"conv_kernel_size": 3}, {}, "conv_kernel_size"),
        ({"legacy": False}, {}, "the newer head"),
        ({"architectures": ["DebertaV2ForTokenClassification"]}, {}, "the head of"),
    ],
)
def test_what_deberta_does_not_play_is_refused(changes: dict[str, Any], job: dict[str, Any], reason: str) -> None:
    """By name; torch itself fails on a reentrant checkpoint of normed positions that train."""
    own = {"model_type": "deberta-v2", "architectures": ["DebertaV2ForMaskedLM"], "relative_attention": True}
    with pytest.raises(OomphError, match=reason):
        step(model_from_config({**BERT, **own, **changes}), TrainJob(2, 9, **job))


@pytest.mark.parametrize("raw", [ALBERT, MPNET])
def test_what_a_class_cannot_checkpoint_is_refused(raw: dict[str, Any]) -> None:
    """As the real class does, which says that it supports none."""
    with pytest.raises(OomphError, match="supports no gradient checkpointing"):
        step(model_from_config(raw), TrainJob(2, 9, checkpointing="reentrant"))


def test_several_groups_of_shared_layers_are_refused() -> None:
    """No published ALBERT has them."""
    with pytest.raises(OomphError, match="several groups"):
        step(model_from_config({**ALBERT, "num_hidden_groups": 2}), TrainJob(2, 9))


def test_a_kernel_that_a_class_does_not_know_is_told() -> None:
    """DeBERTa attends in its own way whatever a job names."""
    (note,) = kernel_note(model_from_config({**BERT, "model_type": "deberta-v2", "architectures": []}), "flash")
    assert "an attention of its own" in note
