"""What objectives do to a step: what is refused, what lies beside the model, and that depth and sizes are left open."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from oomph.answer import for_job
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_words import Objective
from oomph.objectives import KINDS, OF_FACTORY, OF_FACTORY_ALONE, objective_file
from oomph.play import train_step
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.runtimes.config_file import read
from oomph.score.asking import catalogued
from oomph.steps import step
from oomph.stream import ROUND
from tests.objectives.cases import ASKED, LLAMA, pairs, ppo
from tests.objectives.factory_cases import factory
from tests.test_cli import as_json

DEEP = LLAMA | {"num_hidden_layers": 7}


def test_every_objective_is_a_file() -> None:
    """What can be asked for can be played."""
    assert set(get_args(Objective)) == set(KINDS)
    for code, kinds in (("trl", KINDS), ("llama-factory", OF_FACTORY)):
        for name, kind in kinds.items():
            file = objective_file(SimpleNamespace(objective=name, objective_code=code))  # type: ignore[arg-type]
            assert callable(file.iterate if kind.judged else file.compute_loss)


def test_losses_of_llama_factory_are_asked_of_llama_factory() -> None:
    """TRL has none of them, and LLaMA-Factory no trainer of completions that is played."""
    for name in OF_FACTORY_ALONE:
        with pytest.raises(UsageError, match=f"TRL has no {name}"):
            TrainJob(2, 16, objective=name)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="LLaMA-Factory has no grpo"):
        factory("grpo", prompt_len=4)
    with pytest.raises(UsageError, match="has no reference beside adapters"):
        factory("asft", method="lora")
    with pytest.raises(UsageError, match="Only distillation has a teacher"):
        factory("dpo", method="lora", teacher_dtype="bf16")
    with pytest.raises(UsageError, match="LLaMA-Factory precomputes none"):
        factory("dpo", reference="precomputed")
    assert factory("kto", 1).batch == 1  # its mismatched answers come with the data


@pytest.mark.parametrize(
    "job",
    [
        pairs(),
        pairs(method="lora", checkpointing="non-reentrant"),
        pairs(objective="ipo"),
        pairs(objective="cpo"),
        pairs(objective="rloo", prompt_len=9),
        pairs(objective="kto"),
        pairs(objective="grpo", prompt_len=9, method="lora"),
        pairs(objective="distill", prompt_len=9, checkpointing="reentrant"),
        ppo(accumulation=2, rollout_batch=3, precision="amp-bf16", fp32_outputs=True),
        factory("dpo", checkpointing="reentrant", teacher_dtype="fp32"),
        factory("kto", method="lora", clip_gradients=True),
        factory("orpo", precision="amp-bf16", fp32_outputs=True),
        factory("reward", checkpointing="reentrant", clip_gradients=True),
        factory("eaft", method="lora", checkpointing="non-reentrant"),
        factory("asft", checkpointing="reentrant"),
    ],
)
def test_a_folded_step_is_the_one_played_in_full(job: TrainJob) -> None:
    """Layers of policy and reference repeat, and few of them say what all do."""
    model = model_from_config(DEEP)
    folded, whole = step(model, job), train_step(model, job)
    assert folded.folded
    assert (int(folded.peak), int(folded.resident), int(folded.end)) == (whole.peak, whole.resident, whole.live[-1])


def test_a_reference_lies_beside_the_model_or_not() -> None:
    """A loaded one is a second model; precomputed numbers and adapters switched off are none."""
    model = model_from_config(LLAMA)
    loaded, precomputed = (train_step(model, pairs(reference=each)) for each in ("loaded", "precomputed"))
    weights = loaded.kept("parameter") - precomputed.kept("parameter")
    assert weights == precomputed.kept("parameter")
    adapters = train_step(model, pairs(method="lora")).kept("parameter")
    assert adapters < 2 * weights


def test_a_prompt_is_not_multiplied_with_the_head() -> None:
    """Of two jobs the one with a longer prompt takes less, and the loss hf does not mind."""
    model = model_from_config(LLAMA | {"vocab_size": 32_000})
    jobs = [pairs(1, 128, prompt_len=length, optimizer="none") for length in (0, 1, 64)]
    all_of_it, first, half = (int(step(model, job).peak) for job in jobs)
    assert all_of_it == first > half


def test_a_kl_term_keeps_a_reference_in_memory() -> None:
    """A second model in full fine-tuning, nothing where adapters are switched off."""
    model = model_from_config(LLAMA)
    plain, term = (train_step(model, pairs(objective=name, prompt_len=9)) for name in ("grpo", "grpo-kl"))
    assert term.kept("parameter", term.start) == 2 * plain.kept("parameter", plain.start)
    lora = (train_step(model, pairs(objective=name, prompt_len=9, method="lora")) for name in ("grpo", "grpo-kl"))
    assert len({each.kept("parameter", each.start) for each in lora}) == 1


def test_generation_is_named_where_it_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger of an update says that it is one."""
    options = ("--objective", "grpo", "--prompt-len", "64", "--seq", "256")
    answer = as_json(capsys, "train", "llama-3-8b", *options)
    assert any("what makes them is not in the step" in words for words in answer["warnings"])


def test_levers_and_limits_keep_to_what_a_job_can_be() -> None:
    """KTO wants two answers, and a sequence more tokens than its prompt has."""
    from oomph.planning.lever import halving
    from oomph.planning.solve import AXES, _least

    sizes = [job.batch for job in halving("batch", 1)(pairs(8, objective="kto"), model_from_config(LLAMA))]
    assert sizes == [4, 2]
    assert _least(pairs(objective="kto"), AXES["batch"]) == 2
    assert _least(pairs(objective="grpo", prompt_len=9), AXES["seq"]) == 10


def test_simpo_takes_less_than_cpo() -> None:
    """A cross entropy of the chosen answers is more, and there is no second model."""
    model = model_from_config(LLAMA | {"vocab_size": 32_000})
    simpo, cpo, dpo = (train_step(model, pairs(2, 128, objective=each)) for each in ("simpo", "cpo", "dpo"))
    assert simpo.peak < cpo.peak
    assert 2 * simpo.kept("parameter", simpo.start) == dpo.kept("parameter", dpo.start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "kto", "batch": 1}, "mismatches"),
        ({"objective": "grpo"}, "completes a prompt"),
        ({"objective": "simpo", "loss": "fused-head"}, "says nothing about simpo"),
        ({"objective": "sft", "loss": "logits"}, "needs a loss"),
        ({"loss": "liger"}, "loss liger says nothing about dpo"),
        ({"packing": True}, "does not go with packed"),
        ({"reference": "adapters-off"}, "no adapters to switch off"),
        ({"method": "lora", "reference": "loaded"}, "beside adapters"),
        ({"method": "bitfit"}, "does not go with bitfit"),
        ({"prompt_len": 37}, "leaves none"),
        ({"checkpointing": "reentrant", "checkpoint_every": 2}, "every n-th layer"),
        ({"objective": "nash"}, "objective cannot be"),
        ({"objective": "ppo"}, "completes a prompt"),
        ({"objective": "ppo", "prompt_len": 9, "checkpointing": "non-reentrant"}, "go with checkpointing"),
        ({"objective": "ppo", "prompt_len": 9, "clip_gradients": True}, "clipped gradients"),
        ({"objective": "ppo", "prompt_len": 9, "method": "qlora"}, "quantised base"),
        ({"objective": "ppo", "prompt_len": 9, "optimizer": "galore_adamw"}, "go with galore_adamw"),
        ({"objective": "ppo", "prompt_len": 9, "accumulation": 3, "mini_batches": 2}, "do not come out even"),
        ({"objective": "distill"}, "completes a prompt"),
        ({"objective": "distill", "prompt_len": 9, "precision": "amp-bf16"}, "does not go with autocast"),
        ({"objective": "distill", "prompt_len": 9, "method": "qlora"}, "quantised base"),
        ({"mini_batches": 2}, "Only PPO has rollouts"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    """Each with the reason and a way out."""
    with pytest.raises(UsageError, match=message):
        pairs(**options)


def test_models_whose_part_is_not_played_are_refused() -> None:
    """TRL adds the loss of a mixture's router; distillation reads the head's weight alone."""
    mixture = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(UnsupportedError, match="router"):
        step(model_from_config(mixture), pairs())
    job = pairs(objective="distill", prompt_len=9, method="lora", targets="lm_head")
    with pytest.raises(UnsupportedError, match="adapter on the head"):
        step(model_from_config(LLAMA | {"tie_word_embeddings": False}), job)


def test_trl_says_what_a_job_of_pairs_takes() -> None:
    """Its defaults by objective and version, in words; a program that is not known refuses."""
    trl = runtime("trl")
    job = trl.job(objective="dpo")
    assert (job.dropout, job.padding, job.loss, job.precision) == (False, True, "fused-head", "amp-bf16")
    assert trl.job(objective="grpo", prompt_len=8).dropout
    assert any("disable_dropout" in words for words in trl.taken(Versions(), {"objective": "dpo"}))
    assert [trl.job(Versions.found_in(f"trl {each}")).loss for each in ("0.29.1", "1.14.2")] == ["hf", "chunked-nll"]
    with pytest.raises(UnsupportedError, match=r"before 1\.15"):
        trl.job(Versions.found_in("trl 0.29.1"), objective="dpo")
    with pytest.raises(UnsupportedError, match="torchtune"):
        runtime("torchtune").job(objective="dpo")


def test_config_files_name_their_objective() -> None:
    """TRL's loss_type, axolotl's rl; what else they can say is refused by name."""
    trl = read({"max_length": 512, "loss_type": "ipo", "precompute_ref_log_probs": True}, "dpo.json")
    assert trl.fields == {"seq_len": 512, "objective": "ipo", "reference": "precomputed"}
    grpo = {"max_length": 512, "loss_type": "dapo"}
    assert read(grpo, "grpo.json").fields["objective"] == "grpo"
    assert read(grpo | {"beta": 0.04}, "grpo.json").fields["objective"] == "grpo-kl"
    simpo = {"max_length": 512, "loss_type": "simpo", "cpo_alpha": 0.0}
    assert read(simpo, "cpo.json").fields["objective"] == "simpo"
    axolotl = {"base_model": "x", "micro_batch_size": 1, "rl": "dpo"}
    assert read(axolotl, "a.yaml").fields["objective"] == "dpo"
    for config in (
        simpo | {"cpo_alpha": 1.0},
        {"max_length": 512, "loss_type": ["exo_pair"]},
        {"finetuning_type": "lora", "stage": "ppo"},
    ):
        with pytest.raises(UnsupportedError, match="not modelled"):
            read(config, "args.json")


def test_a_reward_model_gets_a_head_of_one_number_and_a_padding_token() -> None:
    """Of a language model that has neither, as RewardTrainer loads it; its logits of tokens are nowhere."""
    job = TrainJob(2, 64, objective="reward")
    assert (job.task, job.labels) == ("sequence-classification", 1)
    found = for_job(catalogued("llama-3-8b"), job)
    assert found.model.objective == "regression"
    assert int(step(found.model, job).peak) < int(step(catalogued("llama-3-8b").model, TrainJob(4, 64)).peak)


def test_a_teacher_of_another_size_is_beside_the_student() -> None:
    """Weights and caches of its two layers more come on top; what is folded is what is played in full."""
    student, small = model_from_config(LLAMA), model_from_config(LLAMA | {"num_hidden_layers": 3})
    job = TrainJob(2, 37, objective="gkd", optimizer="none")
    taught = replace(student, teacher=small)
    more = int(step(taught, job).peak) - int(step(student, job).peak)
    cached = 2 * 2 * 7 * ROUND  # two layers' keys and values: 2·2·37·12·2 B each, rounded up
    assert 0 <= more - cached - 2 * (small.params - student.params) < 2 * 9 * ROUND
    assert step(taught, job).peak == max(train_step(taught, job).live)


def test_a_teacher_with_other_tokens_is_refused() -> None:
    """As TRL does: whole distributions are compared."""
    taught = replace(model_from_config(LLAMA), teacher=model_from_config(LLAMA | {"vocab_size": 64}))
    with pytest.raises(UsageError, match="The teacher has 64 tokens"):
        train_step(taught, TrainJob(2, 37, objective="gkd"))
    with pytest.raises(UsageError, match="Only distillation"):
        TrainJob(teacher="qwen2.5-3b")


def test_ppo_holds_four_models_and_trains_two() -> None:
    """Policy and value model have gradients and states; reference and reward model only lie there."""
    model = model_from_config(ASKED)
    played = train_step(model, ppo(precision="fp32"))
    one, head = model.params, LLAMA["vocab_size"] * LLAMA["hidden_size"]
    judging = one - head + LLAMA["hidden_size"]
    weights = 4 * (2 * one + 2 * judging)
    assert 0 <= played.kept("parameter", played.start) - weights < 50 * ROUND
    assert 0 <= played.kept("optimizer state") - 2 * 4 * (one + judging) < 50 * ROUND
    adapters = train_step(model, ppo(precision="fp32", method="lora"))
    assert 0 <= adapters.kept("parameter", adapters.start) - 4 * (one + 2 * judging) < 100 * ROUND


def test_the_rollout_of_ppo_is_a_phase_and_its_logits_stay() -> None:
    """Long answers make the generation the highest; the logits of all answers lie beside every micro-batch."""
    model = model_from_config(ASKED | {"vocab_size": 32_000})
    few, many = (train_step(model, ppo(1, 64, accumulation=n, prompt_len=32)) for n in (1, 4))
    logits = 32 * 32_000 * 4  # of one answer, in fp32
    assert many.resident - few.resident >= 3 * logits
    marks = {name: at for at, name in many.recorder.marks if at >= many.start}
    generated = max(many.live[many.start : marks["rollout"]])
    assert generated - many.resident >= 2 * 4 * logits  # stacked beside what they were
    assert many.peak == max(many.live[many.start :])
    more = step(model, ppo(1, 64, accumulation=12, mini_batches=2, prompt_len=32))
    assert 0 <= int(more.resident) - many.resident - 8 * logits < 64 * ROUND


def test_ppo_runs_as_its_versions_do() -> None:
    """bf16 told accelerate something up to transformers 4; TRL after 1.12 has no PPOTrainer."""
    trl = runtime("trl")
    asked = {"objective": "ppo", "prompt_len": 64}
    job = trl.job(**asked)
    assert (job.precision, job.checkpointing, job.clip_gradients, job.dropout) == ("fp32", "none", False, False)
    old = trl.job(Versions.found_in("trl 0.29.1, transformers 4.57.1"), **asked)
    assert (old.precision, old.fp32_outputs) == ("amp-bf16", True)
    assert trl.job(Versions.found_in("trl 0.16.1, transformers 4.48.1"), **asked).precision == "fp32"
    for version in ("trl 1.13.0", "trl 0.12.2"):
        with pytest.raises(UnsupportedError, match="runs no PPO"):
            trl.job(Versions.found_in(version), **asked)


def test_a_config_of_ppo_is_told_by_its_reward_model() -> None:
    """What its trainer does not read is passed over, what moves memory and is not modelled is refused or listed."""
    said = {
        "sft_model_path": "a/b", "reward_model_path": "a/c", "per_device_train_batch_size": 8, "num_mini_batches": 2,
        "gradient_accumulation_steps": 4, "local_rollout_forward_batch_size": 16, "bf16": True,
        "gradient_checkpointing": True, "max_grad_norm": 1.0, "response_length": 53, "dtype": "bfloat16",
    }  # fmt: skip
    found = read(said, "ppo.json")
    assert (found.runtime, found.model, found.unknown) == ("trl", "a/b", ("response_length",))
    assert found.fields == {
        "objective": "ppo", "batch": 8, "accumulation": 4, "mini_batches": 2, "rollout_batch": 16, "precision": "bf16",
        "fp32_outputs": False,
    }  # fmt: skip
    with pytest.raises(UnsupportedError, match="fp16"):
        read(said | {"fp16": True}, "ppo.json")


def test_ppo_of_another_frame_is_refused() -> None:
    """Hidden states are handed out by decoders like Llama and GPT-NeoX alone."""
    gpt2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 48, "n_head": 4, "vocab_size": 515, "n_positions": 64}
    with pytest.raises(UnsupportedError, match="cannot play ppo with gpt2"):
        train_step(model_from_config(gpt2), ppo())


def test_a_reward_model_of_another_size_is_what_values_are_made_of_too() -> None:
    """Two such models are in memory, one of which trains; what is played is played in full."""
    policy, small = model_from_config(ASKED | {"num_hidden_layers": 3}), model_from_config(ASKED)
    job = ppo(precision="fp32")
    judged, alike = (train_step(replace(policy, judge=each), job) for each in (small, None))
    less = 4 * (policy.params - small.params)
    weights, states = (
        alike.kept(why, alike.start) - judged.kept(why, judged.start) for why in ("parameter", "optimizer state")
    )
    assert 0 <= weights - 2 * less < 50 * ROUND
    assert 0 <= states - 2 * less < 50 * ROUND
    assert int(step(replace(policy, judge=small), job).peak) == judged.peak
    with pytest.raises(UsageError, match="Only PPO has"):
        TrainJob(reward_model="qwen2.5-0.5b")


def test_tiles_take_less_than_whole_logits() -> None:
    """DistillationTrainer makes what GKDTrainer has whole in two tiles; a teacher of another size has its own head."""
    model = model_from_config(LLAMA | {"vocab_size": 150_000})
    options = {"prompt_len": 1, "optimizer": "none", "teacher_dtype": "student"}
    tiles, whole = (train_step(model, pairs(4, 512, objective=name, **options)) for name in ("distill", "gkd"))
    assert tiles.peak < whole.peak / 2
    taught = replace(model, teacher=model_from_config(LLAMA | {"vocab_size": 150_000, "num_hidden_layers": 3}))
    job = pairs(4, 512, objective="distill", **options)
    assert int(step(taught, job).peak) == max(train_step(taught, job).live)


def test_a_config_of_distillation_is_told_by_its_completions() -> None:
    """DistillationConfig names its teacher as GKDConfig does."""
    said = {"max_length": 512, "teacher_model_name_or_path": "a/b", "max_completion_length": 256}
    assert read(said, "a").fields["objective"] == "distill"
    with pytest.raises(UnsupportedError, match="beta"):
        read(said | {"beta": 0.5}, "a")
    job = runtime("trl").job(objective="distill", prompt_len=9)
    assert (job.precision, job.fp32_outputs, job.checkpointing) == ("bf16", False, "non-reentrant")


def test_a_trace_of_ppo_is_refused() -> None:
    """It begins after the generation: what is recorded of it is no whole iteration."""
    from oomph.referee.trace import run

    with pytest.raises(UnsupportedError, match="begins after the generation"):
        run(ASKED, ppo())


def test_ppo_empties_the_allocators_cache() -> None:
    """What the rollout cut up goes back to the device before the steps: less is reserved."""
    from oomph.allocator.playback import replay

    model = model_from_config(ASKED | {"vocab_size": 32_000})
    stream = train_step(model, ppo(2, 64, accumulation=4, prompt_len=8)).recorder.stream()
    emptied, kept = replay(stream), replay(stream, empty_cache_at=())
    assert emptied.reserved_peak_bytes < kept.reserved_peak_bytes
