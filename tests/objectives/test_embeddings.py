"""Embedding models: what is refused, what GradCache changes, and that depth and sizes are left open."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import for_job
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.objectives import gradcache
from oomph.objectives.embed import pooling_of
from oomph.play import play, train_step
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.score.asking import catalogued
from oomph.steps import step
from tests.objectives.embedding_cases import AMP, BERT, DISTILBERT, QWEN3, cached, contrastive
from tests.test_cli import as_json

DEEP = {"num_hidden_layers": 6}


@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (BERT | DEEP, contrastive(**AMP)),
        (BERT | DEEP, cached(9, checkpointing="reentrant", anchor_len=6)),
        (QWEN3 | DEEP, contrastive(negatives=2, anchor_len=5, method="lora", padding=True, **AMP)),
        (DISTILBERT | {"n_layers": 6}, contrastive(accumulation=2)),
    ],
    ids=["bert", "cached", "qwen3", "distilbert"],
)
def test_a_folded_step_is_the_one_played_in_full(raw: dict[str, Any], job: TrainJob) -> None:
    """Layers repeat in every pass of a column or mini-batch, and few of them say what all do."""
    model = model_from_config(raw)
    folded, whole = step(model, job), train_step(model, job)
    assert folded.folded
    assert (int(folded.peak), int(folded.resident), int(folded.end)) == (whole.peak, whole.resident, whole.live[-1])


def test_mini_batches_that_are_not_played_do_as_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of many tell the peak of all, embeddings of all included."""
    model, job = model_from_config(BERT | {"hidden_size": 64}), cached(21, optimizer="none", **AMP)
    few = train_step(model, job)
    monkeypatch.setattr(gradcache, "FIRST", 100)
    assert (few.peak, few.live[-1]) == ((every := train_step(model, job)).peak, every.live[-1])
    assert len(few.recorder.events) < len(every.recorder.events) / 2


def test_gradcache_takes_what_a_mini_batch_takes() -> None:
    """Eight times the batch takes embeddings more, and without it six times as much and more."""
    model = model_from_config(BERT | {"num_hidden_layers": 4})
    few, many = (int(step(model, contrastive(batch, 64, optimizer="none")).peak) for batch in (16, 128))
    few_cached, many_cached = (
        int(step(model, cached(batch, 64, mini_batch_size=16, optimizer="none")).peak) for batch in (16, 128)
    )
    assert many > 6 * few
    assert many_cached < 1.2 * few_cached < few


def test_the_longer_texts_and_the_more_of_them_the_more_it_takes() -> None:
    """Short anchors take less than long ones, each negative more."""
    model = model_from_config(BERT)
    jobs = [contrastive(8, 64, anchor_len=8), contrastive(8, 64), *(contrastive(8, 64, negatives=n) for n in (1, 2))]
    sizes = [int(step(model, job).peak) for job in jobs]
    assert sizes == sorted(set(sizes))


def test_columns_that_are_passes_of_their_own_cast_weights_once_more_each() -> None:
    """Up to release 5 each negative's pass keeps its own 16-bit copies of all weights under autocast."""
    model, asked = model_from_config(BERT | {"num_hidden_layers": 4}), {"optimizer": "none", **AMP}
    more = []
    for release in ("6", "5"):
        jobs = (contrastive(2, 4, negatives=n, sentence_transformers=release, **asked) for n in (1, 2))
        one, two = (int(step(model, job).peak) for job in jobs)
        more.append(two - one)
    assert more[1] > 1.2 * more[0]


def test_a_pooler_that_nobody_asks_gets_no_gradient() -> None:
    """BertModel computes with it, and the optimizer passes by what has no gradient."""
    played = train_step(model_from_config(BERT), contrastive(precision="fp32", implementation="loop"))
    names = {
        op: {each.scope for each in played.recorder.allocations if each.op == op} for op in ("parameter", "exp_avg")
    }
    assert names["parameter"] - names["exp_avg"] == {"pooler.dense.weight", "pooler.dense.bias"}
    assert names["exp_avg"]


def test_vectors_are_made_as_models_of_a_kind_are_published() -> None:
    """Encoders take a mean, decoders the last token, unless a job says otherwise."""
    assert [pooling_of(kind, contrastive()) for kind in ("bert", "modernbert", "qwen3")] == [
        "mean",
        "mean",
        "lasttoken",
    ]
    assert pooling_of("bert", contrastive(pooling="cls")) == "cls"
    model = model_from_config(QWEN3)
    default, last, first = (
        int(step(model, contrastive(pooling=each)).peak) for each in ("default", "lasttoken", "cls")
    )
    assert default == last > first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prompt-tuning"}, "with prompt-tuning"),
        ({"kernels": "liger"}, "other kernels"),
        ({"attention": "flash_attention_2"}, "flattened"),
        ({"activation_offload": "save-on-cpu"}, "offloading"),
        ({"loss": "liger"}, "says nothing about"),
        ({"packing": True}, "packed"),
        ({"prompt_len": 3}, "a prompt"),
        ({"objective": "contrastive-cached", "zero_stage": 1}, "many times"),
        ({"objective": "contrastive-cached", "optimizer_in_backward": True}, "many times"),
        ({"objective": "contrastive-cached", "optimizer": "lomo"}, "many times"),
        ({"mini_batch_size": 4}, "is of GradCache"),
        ({"objective": "sft", "negatives": 1}, "Only embedding models"),
        ({"objective": "sft", "anchor_len": 4}, "Only embedding models"),
        ({"objective": "dpo", "pooling": "cls"}, "Only embedding models"),
        ({"objective": "sft", "normalize": False}, "Only embedding models"),
        ({"objective": "sft", "sentence_transformers": "5"}, "Only embedding models"),
        ({"pooling": "max"}, "pooling cannot be"),
        ({"negatives": -1}, "negatives cannot be"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    """With a way to go on."""
    with pytest.raises(UsageError, match=message):
        contrastive(**options)


def test_models_without_a_head_need_an_objective() -> None:
    """And types whose states are not handed out are refused by name."""
    bare = model_from_config(BERT)
    for job in (TrainJob(1, 8), InferJob(1, 8, cache="none")):
        with pytest.raises(UnsupportedError, match=r"without a language head.*contrastive"):
            play(bare, job)
    with pytest.raises(UnsupportedError, match="contrastive with bloom"):
        train_step(model_from_config(BERT | {"model_type": "bloom", "architectures": ["BloomModel"]}), contrastive())
    with pytest.raises(UnsupportedError, match="no t5 for embedding"):
        for_job(catalogued("t5-base"), contrastive())
    with pytest.raises(UsageError, match="64 positions"):
        train_step(bare, contrastive(anchor_len=65))


def test_sentence_transformers_takes_the_trainers_defaults() -> None:
    """fp32 without checkpoints; it knows its own objectives, and others do not know them."""
    ours = runtime("sentence-transformers")
    job = ours.job(batch=2)
    assert (job.objective, job.precision, job.padding, job.checkpointing) == ("contrastive", "fp32", True, "none")
    assert ours.job(objective="contrastive-cached").mini_batch_size == 32
    versions = [Versions.found_in(f"sentence_transformers {number}") for number in ("5.7.0", "6.0", "5.3.0")]
    assert [ours.job(each).sentence_transformers for each in versions[:2]] == ["5", "6"]
    with pytest.raises(UnsupportedError, match=r"5\.3\.0"):
        ours.job(versions[2])
    for name, objective in (("sentence-transformers", "dpo"), ("trl", "contrastive"), ("trainer", "contrastive")):
        with pytest.raises(UnsupportedError, match=r"framework (trl|sentence-transformers)"):
            runtime(name).job(objective=objective)


def test_the_command_line_trains_a_published_embedding_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Its config names a bare class, and what is asked of columns is printed with the answer."""
    asked = ("--framework", "sentence-transformers", "--batch", "4", "--seq", "32", "--negatives", "1")
    answer = as_json(capsys, "train", "bge-small-en-v1.5", *asked)
    assert answer["total_bytes"] > 0
    assert (answer["job"]["objective"], answer["job"]["negatives"]) == ("contrastive", 1)
