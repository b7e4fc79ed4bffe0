"""Device maps: what waits is what transformers lets wait, and every event of hooks that bring it equals the trace."""

from __future__ import annotations

from typing import Any

import pytest

from oomph import load
from oomph.answer import subject
from oomph.device_map import is_away, placed, spread, waiting_bytes, waiting_paths
from oomph.devices import find, parse_gpus
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob
from oomph.job_ledger import job_ledger
from oomph.planning.solve import limits
from oomph.play_infer import infer
from tests.tape.grid import compare
from tests.tape.test_quantised_cache import LLAMA, MAMBA
from tests.tape.test_seq2seq import T5

DEEP = {**LLAMA, "num_hidden_layers": 5}
TIED = {**DEEP, "tie_word_embeddings": True}
GPT2: dict[str, Any] = {**LLAMA, "model_type": "gpt2", "num_hidden_layers": 5}
SOFTCAP = {**LLAMA, "model_type": "gemma2", "head_dim": 16, "sliding_window": 8}
PHI = {**TIED, "model_type": "phi"}  # a head that is the embedding, and has a bias
MIXTURE = {
    **LLAMA, "model_type": "mixtral", "num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
SHARES = (0.2, 0.35, 0.5, 0.7, 0.9, 0.98, 1.1, 1.3)


@pytest.mark.slow
@pytest.mark.parametrize("raw", [DEEP, TIED, GPT2, PHI, MIXTURE], ids=["llama", "tied", "gpt2", "phi", "mixtral"])
def test_what_waits_is_what_transformers_lets_wait(raw: dict[str, Any]) -> None:
    """Every parameter is where infer_auto_device_map puts it, whatever memory there is."""
    import torch
    import transformers
    from transformers.integrations.accelerate import infer_auto_device_map

    from oomph.referee.meta import clean

    config = transformers.CONFIG_MAPPING[raw["model_type"]](**clean(dict(raw)))
    with torch.device("meta"):
        real = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    names = [name for name, _ in real.named_parameters()]
    total = sum(2 * each.numel() for each in real.parameters())
    for share in SHARES:
        room = int(total * share)
        whole = {"max_memory": {0: room, "cpu": 2**50}, "no_split_module_classes": real._no_split_modules}
        waits = frozenset(name for name, place in infer_auto_device_map(real, **whole).items() if place == "cpu")
        theirs = {name for name in names if "" in waits or is_away(waits, name)}
        ours = frozenset(spread(model_from_config(raw), "bf16", room))
        assert {name for name in names if is_away(ours, name)} == theirs, share


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "job"),
    [
        (LLAMA, {"offload": "model.layers.1,model.norm,lm_head"}),
        ({**LLAMA, "tie_word_embeddings": True}, {"offload": "model.embed_tokens,model.layers.0"}),
        (SOFTCAP, {"offload": "model.layers.0,lm_head", "attention": "eager"}),
        ({**GPT2, "num_hidden_layers": 2}, {"offload": "transformer.h.1,transformer.ln_f"}),
        (MIXTURE, {"offload": "model.layers.1-2", "decode": 1}),
        (LLAMA, {"offload": "model.layers.1.mlp", "beams": 2, "cache": "offloaded", "decode": 1}),
    ],
)
def test_every_event_equals_the_trace(raw: dict[str, Any], job: dict[str, Any]) -> None:
    """Weights of a module come right before it runs and go right after, in every pass, with accelerate's own hooks."""
    parting, ours, theirs = compare(raw, InferJob(**{"batch": 2, "seq_len": 32, "decode": 2, **job}))
    assert parting is None, str(parting)
    assert ours == theirs


def test_a_model_of_64_gb_on_a_card_of_24() -> None:
    """As many layers as fit beside the largest one stay; the rest comes when it is needed, and the job fits."""
    found = subject("qwen2.5-32b-instruct")
    ledger = job_ledger(found, InferJob(1, 2048, decode=1, device_map="auto"), parse_gpus("rtx-4090"))
    assert ledger.verdict is not None
    assert ledger.verdict.status in ("fits", "tight")
    assert any("In the machine's memory wait" in each and "model.layers." in each for each in ledger.warnings)


def test_what_stays_and_what_waits_are_the_model() -> None:
    """No weight is lost or there twice, and less memory never lets more stay."""
    model = model_from_config(DEEP)
    whole = infer(model, InferJob(1, 8)).resident
    waited = -1
    for room in (900_000, 600_000, 500_000, 400_000, 350_000):
        job = placed(model, InferJob(1, 8, device_map="sequential", max_memory=f"{room}B"))
        waits = 0 if job.offload == "none" else waiting_bytes(model, job)
        assert waits >= waited
        waited = waits
        assert abs(infer(model, job).resident + waits - whole) < 512 * len(model.weights) * 5


def test_a_map_asks_for_a_device_or_a_size() -> None:
    """One of both says how much there is; auto leaves a tenth of a device free."""
    model = load("qwen2.5-32b-instruct")
    with pytest.raises(UsageError, match="--max-memory"):
        placed(model, InferJob(device_map="auto"))
    kept = [
        waiting_bytes(model, placed(model, InferJob(device_map=kind), find("rtx-4090")))
        for kind in ("auto", "sequential")
    ]
    assert kept[0] > kept[1] > 0
    more_than_there_is = InferJob(device_map="auto", max_memory="90GiB")
    assert waiting_bytes(model, placed(model, more_than_there_is, find("rtx-4090"))) == kept[1]


@pytest.mark.slow
def test_the_longest_prompt_beside_a_map_is_found() -> None:
    """The map is made for the device once; then prompts are tried."""
    job = InferJob(1, 64, device_map="auto")
    (found,) = limits(subject("qwen2.5-14b-instruct"), job, parse_gpus("rtx-4090"), ["context"]).limits
    assert found.value > 1024


def test_a_model_that_fits_waits_nowhere() -> None:
    """The job is then one without a map."""
    assert placed(load("qwen2.5-0.5b"), InferJob(device_map="auto", max_memory="20GiB")) == InferJob()


def test_a_card_that_holds_nothing_is_refused() -> None:
    """transformers would run the model on the CPU."""
    with pytest.raises(UsageError, match="run on the CPU"):
        placed(load("qwen2.5-32b-instruct"), InferJob(device_map="auto", max_memory="1GiB"))


@pytest.mark.parametrize(
    "offload",
    ["model.layers.7", "model.layers.3-1", "nothing", ",", "model.layers.0-99999", "a" * 5000, "lm_head.weight"],
)
def test_modules_that_are_not_there_are_named(offload: str) -> None:
    """With what the model has instead."""
    with pytest.raises(UsageError):
        waiting_paths(model_from_config(LLAMA), offload)


@pytest.mark.parametrize("raw", [MAMBA, T5])
def test_models_of_other_kinds_are_refused(raw: dict[str, Any]) -> None:
    """States, and encoders."""
    model = model_from_config(raw)
    with pytest.raises(UnsupportedError):
        infer(model, InferJob(1, 8, attention="eager", offload="lm_head"))


@pytest.mark.parametrize(
    "wrong", [{"max_memory": "3GiB"}, {"device_map": "auto", "offload": "lm_head"}, {"device_map": "balanced"}]
)
def test_words_that_do_not_go_together_are_refused(wrong: dict[str, Any]) -> None:
    """A size without a map, a map beside a list."""
    with pytest.raises(UsageError):
        InferJob(**wrong)
