"""LoRA against closed forms worked out by hand from traces of PEFT on Llama-3-8B, and against what peers get wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.families.registry import FAMILIES
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.methods.targets import ADALORA_TARGETS, LORA_TARGETS, VERA_TARGETS, target_note
from oomph.play import train_step
from oomph.steps import step
from oomph.units import GIB
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare
from tests.tape.hybrids import deep

MODEL = model_from_config(LLAMA_3_8B)
FULL = 411_321_344  # bytes a layer saves in full fine-tuning


def lora(**options: Any) -> TrainJob:
    return TrainJob(method="lora", rank=16, **options)


@pytest.mark.parametrize(
    ("job", "layer", "formula"),
    [
        (
            lora(targets="all-linear", adapter_dtype="base"),
            378_225_664,
            "4·T·a·d + 4·T·k·d + 12·T·h + 4·T·a + 8·T·i + 14·T·r + 8·T + 1024",
        ),
        (
            lora(targets="q_proj,v_proj", adapter_dtype="base"),
            302_400_512,
            "4·T·a·d + 4·T·k·d + 10·T·h + 4·T·a + 6·T·i + 4·T·r + 8·T + 1024",
        ),
        (
            lora(targets="all-linear", adapter_dropout=0.05),
            684_868_608,
            "9·T·a·d + 4·T·k·d + 33·T·h + 4·T·a + 11·T·i + 28·T·r + 8·T + 1024",
        ),
    ],
    ids=["bf16 adapters", "q and v only", "PEFT's default with dropout"],
)
def test_what_a_layer_saves(job: TrainJob, layer: int, formula: str) -> None:
    """Frozen maps save no input and frozen norms no normed copy; each adapter saves its own input."""
    found = saved_tensors(MODEL, job)
    assert (found.row_bytes, found.formula) == (layer, formula)


def test_peft_s_default_saves_more_than_full_fine_tuning() -> None:
    """fp32 adapters copy the input of every adapted map, dropout copies it once more.

    Peers have no term for it (A13: 16.3 GiB in all for this job, of which the weights are 15.0).
    """
    for rate, layer in ((0.0, 605_176_832), (0.05, 684_868_608)):
        found = saved_tensors(MODEL, lora(targets="all-linear", adapter_dropout=rate))
        assert found.row_bytes == layer > FULL
        assert (found.layers_bytes + found.outside_bytes) / GIB > 19


@pytest.mark.slow
def test_real_peft_saves_as_much_on_the_real_shapes() -> None:
    """Two layers of Llama-3-8B with PEFT's default adapters, traced: the same events, the same peak."""
    raw = {**models.LLAMA3_8B, "num_hidden_layers": 2}
    parting, ours, theirs = compare(raw, lora(targets="all-linear", adapter_dropout=0.05))
    assert parting is None, str(parting)
    assert ours == theirs


def test_s4_adapters_are_as_wide_as_the_maps() -> None:
    """41.94 million, not 29.36: the ffn is 14336 wide and keys 1024; q and v alone are 6.8 million."""
    assert trainable_params(MODEL, lora(targets="all-linear")) == 41_943_040
    assert trainable_params(MODEL, lora()) == 6_815_744
    assert trainable_params(MODEL, TrainJob()) == MODEL.params


def test_only_adapters_have_gradients_and_states() -> None:
    """fp32: 4 bytes of gradient and 8 of states for each of 41.94 million parameters."""
    played = step(MODEL, lora(targets="all-linear"))
    adapters = 4 * 41_943_040
    assert played.resident - step(MODEL, lora(targets="all-linear", steady=False)).resident == 2 * adapters
    assert step(MODEL, lora(targets="all-linear", set_to_none=False)).resident - played.resident == adapters


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_folded_step_of_any_rank_equals_one_played_in_full(rank: int, checkpointing: Any) -> None:
    """Rank is an axis of the recipe: one play answers for all."""
    job = TrainJob(method="lora", rank=rank, targets="all-linear", checkpointing=checkpointing)
    folded = step(MODEL, job)
    assert folded.folded
    assert folded.peak == train_step(MODEL, job).peak


def test_dropout_is_off_where_all_of_it_is() -> None:
    """dropout=False leaves no rate above 0, adapters' included."""
    still = step(MODEL, lora(adapter_dropout=0.05, dropout=False))
    assert still.peak == step(MODEL, lora()).peak < step(MODEL, lora(adapter_dropout=0.05)).peak


def test_a_plain_model_is_what_it_was() -> None:
    """Full fine-tuning changes no block; a method changes none of the model it is given."""
    before = MODEL.params
    assert adapted(MODEL, TrainJob()) is MODEL
    assert adapted(MODEL, lora()) is not MODEL
    assert MODEL.params == before == 8_030_261_248


def test_names_are_checked_as_peft_checks_them() -> None:
    """A name that no module has, one that is no linear map in the layers, a rate of 1, a rank of 0."""
    with pytest.raises(UsageError, match="no module 'q_prj'") as found:
        adapted(MODEL, lora(targets="q_prj"))
    assert "q_proj" in found.value.fix
    with pytest.raises(UsageError, match="no module 'Wqkv'") as found:
        adapted(MODEL, lora(targets="Wqkv"))
    assert found.value.fix == "Its linear maps are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."
    with pytest.raises(UnsupportedError, match="embed_tokens"):
        adapted(MODEL, lora(targets="embed_tokens"))
    with pytest.raises(UsageError, match="adapter_dropout cannot be 1"):
        lora(adapter_dropout=1.0)
    with pytest.raises(UsageError, match="rank cannot be 0"):
        TrainJob(method="lora", rank=0)
    with pytest.raises(UsageError, match="targets"):
        lora(targets=" , ")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"adapter_dropout": 0.1, "batch": 2, "hold_logits": False}, {"quantization": "nf4", "kbit_preparation": True}],
    ids=["dropped", "quantised"],
)
def test_an_adapter_on_the_head_equals_the_trace(options: dict[str, Any]) -> None:
    """The head's logits with an adapter's, then transformers' own loss."""
    raw = {**models.LLAMA, "tie_word_embeddings": False}
    parting, ours, theirs = compare(raw, TrainJob(seq_len=37, method="lora", targets="lm_head,q_proj", **options))
    assert parting is None, str(parting)
    assert ours == theirs


GEMMA2: dict[str, Any] = {**models.GEMMA2, "tie_word_embeddings": False}
BOUNDED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (GEMMA2, {"method": "lora", "adapter_dropout": 0.1, "precision": "amp-bf16"}),
    (GEMMA2, {"method": "oft", "accumulation": 2}),
    ({**GEMMA2, "model_type": "granite"}, {"method": "lora-fa"}),
    ({**deep("recurrent_gemma", 3), "tie_word_embeddings": False}, {"method": "lora"}),
    ({**deep("falcon_h1", 2), "tie_word_embeddings": False}, {"method": "dora"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), BOUNDED, ids=[f"{raw['model_type']}-{o['method']}" for raw, o in BOUNDED])
def test_logits_of_an_adapted_head_are_bounded_or_scaled_as_the_trace_has_it(
    raw: dict[str, Any], options: dict[str, Any]
) -> None:
    """What follows a head follows its adapter too: a tanh, a factor, whichever method it is."""
    parting, ours, theirs = compare(raw, TrainJob(seq_len=5, targets="lm_head", **options))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("method", ["lora", "ia3", "oft"])
def test_a_tanh_behind_an_adapted_head_keeps_its_result(method: Any) -> None:
    """Gemma 2's, one more tensor of logits in 16 bits until the backward pass."""
    job, raw = TrainJob(1, 8, method=method, targets="lm_head"), {**GEMMA2, "vocab_size": 1024}
    bounded, plain = (
        train_step(model_from_config({**raw, "final_logit_softcapping": cap}), job) for cap in (30.0, None)
    )
    assert bounded.live[bounded.forward_end] - plain.live[plain.forward_end] == 2 * 8 * 1024


RANKS: dict[str, Any] = {"targets": "q_proj,v_proj,down_proj", "rank": 4, "rank_pattern": "v_proj=16, mlp.down_proj=2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"method": "lora"}, {"method": "dora", "quantization": "nf4"}], ids=["lora", "dora"]
)
def test_ranks_of_single_maps_equal_the_trace(options: dict[str, Any]) -> None:
    """PEFT's rank_pattern, and as many parameters as it counts."""
    from oomph.referee.models import build

    job = TrainJob(seq_len=37, **RANKS, **options)
    parting, ours, theirs = compare(models.LLAMA, job)
    assert parting is None, str(parting)
    assert ours == theirs
    if job.quantization == "none":
        real = build(models.LLAMA, job).get_nb_trainable_parameters()[0]
        assert trainable_params(model_from_config(models.LLAMA), job) == real


def test_ranks_of_single_maps_fold() -> None:
    """A step of few layers tells that of many; two of three maps have ranks of their own."""
    model = model_from_config({**models.LLAMA, "num_hidden_layers": 9})
    job = TrainJob(1, 8, method="lora", **RANKS)
    short, whole = step(model, job), train_step(model, job)
    assert short.folded
    assert short.peak == max(list(whole.live)[whole.start : whole.end + 1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank_pattern": "q_proj"}, "cannot be 'q_proj'"),
        ({"rank_pattern": "q_proj=0"}, "cannot be"),
        ({"rank_pattern": "q_prj=4"}, "no map 'q_prj'"),
        ({"rank_pattern": "layers.0.self_attn.q_proj=4"}, "single layers"),
        ({"rank_pattern": "q_proj=4", "method": "loha"}, "LoRA and its kin"),
    ],
)
def test_ranks_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    """No pairs, no rank, no such map, one layer of many, another method."""
    with pytest.raises(OomphError, match=words):
        train_step(model_from_config(models.LLAMA), TrainJob(1, 8, **{"method": "lora", **options}))


def test_an_adapter_on_a_tied_head_is_refused() -> None:
    """Its weight is the embedding's."""
    raw = {**models.LLAMA, "tie_word_embeddings": True}
    with pytest.raises(UnsupportedError, match="lm_head"):
        step(model_from_config(raw), TrainJob(1, 8, method="lora", targets="lm_head"))


def test_a_model_without_default_targets_gets_all_linear_maps() -> None:
    """Where PEFT itself would raise, as for Qwen3's mixture; said with the answer. Not where it knows the model."""
    raw = {**models.QWEN3_MOE}
    job = TrainJob(1, 8, method="lora")
    assert (
        step(model_from_config(raw), job).peak == step(model_from_config(raw), replace(job, targets="all-linear")).peak
    )
    (note,) = target_note(model_from_config(raw), job)
    assert note.startswith("PEFT finds no default targets for qwen3_moe and would raise")
    for known, asked in ((models.LLAMA, job), (raw, replace(job, targets="all-linear")), (raw, TrainJob(1, 8))):
        assert target_note(model_from_config(known), asked) == ()
    with pytest.raises(UsageError, match="no default targets of ia3"):
        step(model_from_config(raw), TrainJob(1, 8, method="ia3"))


@pytest.mark.slow
def test_where_peft_chooses_targets_oomph_does_not_take_all_linear_maps() -> None:
    """Every model type that both know is in the tables of the methods that fall back, but Mixtral, where PEFT fails."""
    from peft.utils import constants

    for name, ours in (("LORA", LORA_TARGETS), ("VERA", VERA_TARGETS), ("ADALORA", ADALORA_TARGETS)):
        theirs = getattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_TARGET_MODULES_MAPPING")
        assert (theirs.keys() & FAMILIES.keys()) - ours.keys() <= {"mixtral"}


@pytest.mark.slow
def test_default_targets_are_peft_s() -> None:
    """The mapping of the installed PEFT, for the models that oomph plays."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS

    listed = {name for name in LORA_TARGETS if not isinstance(THEIRS[name], str)}
    assert {name: tuple(THEIRS[name]) for name in listed} == {name: LORA_TARGETS[name] for name in listed}
    for name in LORA_TARGETS.keys() - listed:  # a pattern of whole paths, of which ours are the ends
        for target in LORA_TARGETS[name]:
            assert re.fullmatch(THEIRS[name], "model." + target.replace("*", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("raw", [models.LLAMA, models.GPT2], ids=["llama", "gpt2"])
def test_trainable_parameters_are_those_of_peft(raw: dict[str, Any]) -> None:
    """As many as PEFT's get_nb_trainable_parameters counts on the real class."""
    from oomph.referee.models import build

    job = TrainJob(method="lora", rank=3, targets="all-linear")
    assert trainable_params(model_from_config(raw), job) == build(raw, job).get_nb_trainable_parameters()[0]


@pytest.mark.slow
@pytest.mark.parametrize("raw", [models.MIXTRAL, models.QWEN3_MOE], ids=["mixtral", "qwen3_moe"])
def test_default_targets_of_mixtures_equal_the_trace(raw: dict[str, Any]) -> None:
    """PEFT finds none of them: both take all linear maps."""
    parting, ours, theirs = compare(raw, TrainJob(1, 8, method="lora"))
    assert parting is None
    assert ours == theirs
