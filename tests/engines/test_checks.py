"""Inputs of a job are of their types, whoever gives them."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.engines import engine
from oomph.engines.flags import integers
from oomph.errors import UsageError

CHECKED = ["exllamav2", "exllamav3", "ik_llama.cpp", "lm-studio", "mlx", "ollama"]


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("value", ["8k", 0.5, True, 2**80, -(10**30), (1, 2)])
def test_a_number_is_a_whole_number_of_a_machine(name: str, value: Any) -> None:
    """Words, fractions, switches and numbers of no machine are refused by the name of the input."""
    job = engine(name).job
    for field in integers(job):
        if isinstance(getattr(job(), field), tuple):
            continue
        with pytest.raises(UsageError, match=field):
            job(**{field: value})


@pytest.mark.parametrize("name", CHECKED)
def test_the_defaults_are_of_their_types(name: str) -> None:
    """And so is a job that is changed."""
    assert engine(name).job(context=1).with_context(4096).context == 4096
