"""Inputs of a job are of their types, whoever gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import ENGINES, engine
from oomph.engines.flags import integers
from oomph.engines.maps import serve_map
from oomph.engines.serving import serve
from oomph.engines.solve import largest
from oomph.errors import UnsupportedError, UsageError

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


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("asked", [{"context": 0}, {"context": -5}, {"concurrency": 0}, {"concurrency": 2**50}])
def test_requests_that_are_none_are_no_question(name: str, asked: dict[str, int]) -> None:
    """No requests fitted, and a context below nothing divided by zero."""
    program, found = engine(name), subject("llama-3.1-8b")
    devices = [find("m4-max-64gb" if name == "mlx" else "h100")]
    with pytest.raises(UsageError):
        serve(found, program, replace(program.job(), **asked), devices)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("trtllm", "mi300x"),
        ("lmdeploy", "mi300x"),
        ("exllamav3", "mi300x"),
        ("vllm", "m4-max-64gb"),
        ("tgi", "tpu-v5e"),
    ],
)
def test_devices_that_an_engine_does_not_run_on_are_refused(name: str, device: str) -> None:
    """TensorRT-LLM fitted an AMD card."""
    program, found = engine(name), subject("llama-3.1-8b")
    for ask in (serve, serve_map):
        with pytest.raises(UnsupportedError, match="is not modelled: here it runs on NVIDIA"):
            ask(found, program, replace(program.job(), context=4096), [find(device)])
    with pytest.raises(UnsupportedError, match="is not modelled"):
        largest(found, program, replace(program.job(), context=4096), [find(device)], "context")
