"""Targets that are a regular expression, as PEFT takes one text: against PEFT itself, and what it takes of a model."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted
from oomph.runtimes.config_file import read
from tests.kernels.test_kernels import AXOLOTL_TOWERS, SIZES
from tests.tape.golden import estimated, traced

OF_DECODERS = r"model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
OF_LANGUAGE = r"model.language_model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|down|gate|q|k|v|o)_proj"
LLAMA = SIZES | {"model_type": "llama"}
MISTRAL3 = {"model_type": "mistral3"} | AXOLOTL_TOWERS["mistral3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "targets", "more"),
    [
        (LLAMA, OF_DECODERS, {}),
        (LLAMA, r".*\.layers\.(0|1)\.self_attn\.(q|v)_proj|.*\.mlp\.(gate|up)_proj", {"quantization": "nf4-dq"}),
        (MISTRAL3, OF_LANGUAGE, {"autocast": True}),
    ],
)
def test_every_event_equals_the_trace(raw: dict[str, Any], targets: str, more: dict[str, Any]) -> None:
    """PEFT is given the same text; the tower of a model that sees gets nothing."""
    job = TrainJob(method="lora", targets=targets, batch=2, seq_len=37, **more)
    assert estimated(raw, job) == traced(raw, job)


def test_a_pattern_takes_what_it_matches_as_a_whole() -> None:
    """All maps of the layers are those that are named; the head and a tower are none of them."""

    def adapters(raw: dict[str, Any], targets: str) -> set[str]:
        model = adapted(model_from_config(raw), TrainJob(method="lora", targets=targets))
        return {one.name for one in model.weights if "lora_A" in one.name}

    named = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    assert adapters(LLAMA, OF_DECODERS) == adapters(LLAMA, named)
    assert {name.split(".")[1] for name in adapters(MISTRAL3, OF_LANGUAGE)} == {"language_model"}


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (r"model.layers.0.mlp.(up|down)_proj", UnsupportedError, "of some layers alone"),
        (r"model.layers.[\d]+.mlp.(w1|w2)", UsageError, "no module that .* matches"),
        (r"model.layers.[\d+.mlp", UsageError, "is no regular expression"),
        (r"x{99999999999}", UsageError, "is no regular expression"),
        ("(" * 5000, UsageError, "is no regular expression"),
        (r"(\w+)+!", UsageError, "repeats too much"),
        (r".*.*.*.*.*(!)", UsageError, "repeats too much"),
    ],
)
def test_what_a_pattern_may_not_be_is_named(targets: str, error: type[Exception], words: str) -> None:
    """One that takes some of equal layers, one that matches nothing, one that is none, some that would hang."""
    with pytest.raises(error, match=words):
        adapted(model_from_config(LLAMA), TrainJob(method="lora", targets=targets))


def test_a_text_of_a_config_may_be_a_pattern() -> None:
    """As all of axolotl's examples for models that see have it; a list is of names."""
    said = {"base_model": "x", "micro_batch_size": 1, "adapter": "lora"}
    assert read({**said, "lora_target_modules": OF_LANGUAGE}, "a").fields["targets"] == OF_LANGUAGE
    assert read({**said, "lora_target_modules": ["q_proj", "v_proj"]}, "a").fields["targets"] == "q_proj,v_proj"
