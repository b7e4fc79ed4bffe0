"""MLX stores what real quantised models of mlx-lm hold; scripts/record_mlx_golden.py recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oomph import formats
from oomph.errors import ConfigError, UnsupportedError
from oomph.families import model_from_config
from oomph.formats.base import Format
from tests.formats.common import LLAMA_3_8B, all_stored, stored_linear

GOLDEN = json.loads((Path(__file__).parents[1] / "engines" / "mlx_golden.json").read_text())
ROWS = GOLDEN["quantised"]
NAMES = [f"{row['config']['model_type']}-{row['bits']}bit-g{row['group']}-{row['mode']}{row['recipe']}" for row in ROWS]


def _named(row: dict) -> str:
    """The name of a row's format."""
    if row["recipe"]:
        return "mlx-" + row["recipe"].replace("_", "-")
    if row["mode"] != "affine":
        return f"mlx-{row['mode']}"
    return f"mlx-{row['bits']}bit" + ("" if row["group"] == 64 else f"-g{row['group']}")


def _bytes(fmt: Format, config: dict) -> int:
    """What the format stores of a model, without the prediction layers that mlx-lm drops."""
    model = model_from_config(config, "tiny")
    extra = sum(one.n_bytes for each in model.weights if each.kind == "mtp" for one in fmt.store(each, model))
    return sum(one.n_bytes for one in all_stored(fmt, model)) - extra


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_the_config_that_mlx_writes_is_read_to_the_byte(row: dict) -> None:
    """Modules with settings of their own, and all others."""
    config = {**row["config"], "quantization": row["quantization"]}
    asked = formats.asked_for(config)
    assert asked is not None
    assert formats.method_of(asked) == "mlx"
    assert _bytes(formats.from_config(asked, "bf16"), config) == row["bytes"]


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_a_named_format_is_what_mlx_makes(row: dict) -> None:
    """The same without a config, by the rules of mlx-lm's convert."""
    assert _bytes(formats.get(_named(row)), row["config"]) == row["bytes"]


def test_a_map_that_does_not_divide_stays_as_it_is() -> None:
    """mlx-lm leaves out a matrix whose inputs are no multiple of the group."""
    assert [each.dtype for each in stored_linear(formats.get("mlx-4bit"), 64, 100)] == ["bf16"]


@pytest.mark.parametrize(
    "quantization",
    [{"group_size": 48, "bits": 4}, {"group_size": 64, "bits": 7}, {"group_size": 64, "bits": 4, "mode": "int8"}],
)
def test_settings_that_mlx_has_not_are_refused(quantization: dict) -> None:
    """No traceback, no guess."""
    with pytest.raises(UnsupportedError):
        formats.from_config(quantization, "bf16")


def test_a_setting_that_is_no_number_is_an_error() -> None:
    """Configs are anybody's."""
    with pytest.raises(ConfigError, match="bits"):
        formats.from_config({"group_size": 64, "bits": "four"}, "bf16")


def test_another_programs_quantization_is_not_mlxs() -> None:
    """A config.json may use the key for something else."""
    assert formats.asked_for({**LLAMA_3_8B, "quantization": "none"}) is None
    assert formats.asked_for({**LLAMA_3_8B, "quantization": {"bits": 4}}) is None
