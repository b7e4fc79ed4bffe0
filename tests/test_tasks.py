"""What a model's head is for is an input of a job: the model gets that head, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from oomph.answer import for_job, subject
from oomph.cli.app import cli
from oomph.errors import UnsupportedError, UsageError
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.tape import Tape
from oomph.tape.testing import cost, fp32, ids

BERT_LARGE = 335_141_888  # parameters of BertModel: encoder, embeddings and pooler


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_a_classifier_stands_on_the_pooler(labels: int) -> None:
    """bert-large-uncased with a map from 1024 channels onto the labels, as BertForSequenceClassification counts it."""
    job = TrainJob(task="sequence-classification", labels=labels)
    found = subject("bert-large-uncased", offline=True, job=job)
    assert found.model.params == BERT_LARGE + (1024 + 1) * labels
    assert found.model.objective == ("regression" if labels == 1 else "sequence-classification")


def test_a_config_counts_its_labels_unless_the_job_does() -> None:
    """Two labels where nobody says another number; the config's id2label gives way to a number that was typed."""
    found = subject("qwen3-0.6b", offline=True)
    asked = for_job(found, TrainJob(task="sequence-classification"))
    assert asked.model.parts["score"].vocab_size == 2  # type: ignore[union-attr]
    assert for_job(found, TrainJob()) is found


@pytest.mark.parametrize(("model", "task"), [("llama-3-8b", "masked-lm"), ("bert-large-uncased", "causal-lm")])
def test_a_task_that_a_family_has_no_head_for_is_refused(model: str, task: Any) -> None:
    """Decoders fill in no masks, and an encoder is no causal language model."""
    with pytest.raises(UnsupportedError, match=f"for {task}"):
        subject(model, offline=True, job=TrainJob(task=task))


def test_a_model_without_the_head_is_not_played() -> None:
    """A model that was not built for the job's task is named, not silently taken with another head."""
    found = subject("smollm2-135m-instruct", offline=True)
    with pytest.raises(UsageError, match="for_job"):
        train_step(found.model, TrainJob(task="sequence-classification"))


def test_labels_are_of_a_classifier() -> None:
    """Labels without the task would be read by nobody."""
    with pytest.raises(UsageError, match="labels"):
        TrainJob(labels=2)


def test_the_command_line_takes_a_task() -> None:
    """`oomph train` answers for the head asked for, and its JSON says so."""
    asked = ["train", "bge-small-en-v1.5", "--task", "sequence-classification", "--labels", "3", "--json", "--offline"]
    found = CliRunner().invoke(cli, asked)
    job = json.loads(found.output)["job"]
    assert (job["task"], job["labels"]) == ("sequence-classification", 3)
    assert job["trainable_params"] == 33_360_000 + (384 + 1) * 3  # BertModel's own count, and the classifier


def test_the_trainer_does_what_its_torch_did() -> None:
    """Before 2.0 gradients were filled with zeros, before 1.11 softmax kept its input."""
    old = runtime("trainer").job(Versions.found_in("transformers 4.16, torch ~1.10"))
    assert (old.set_to_none, old.keeps_softmax_inputs) == (False, True)
    new = runtime("trainer").job(Versions.found_in("torch 2.1.0"))
    assert (new.set_to_none, new.keeps_softmax_inputs) == (True, False)


def test_kept_scores_are_as_large_as_their_softmax() -> None:
    """log_softmax keeps its input as softmax does: twice the bytes, nothing new."""
    from oomph import ops

    tape = Tape()
    tape.keeps_softmax_inputs = True
    assert (
        cost(ops.cross_entropy, fp32(4, 256), ids(4), tape=tape).saved
        == 4096 + cost(ops.cross_entropy, fp32(4, 256), ids(4)).saved
    )
