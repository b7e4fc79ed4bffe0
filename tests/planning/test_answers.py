"""Plans as a new user asks for them: what is advised, applied to the job, fits, by the real code's own bytes.

The traces are of two layers of each model in full width; that a step of many layers is what one of few layers says is
held in test_fold.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import Subject
from oomph.devices import Fleet, find
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import TrainJob
from oomph.planning.bench import Bench
from oomph.planning.plan import plan
from oomph.planning.result import FITS, Change
from oomph.sources import catalogue
from tests.planning.test_plan import job_of, without_packages
from tests.tape.grid import compare

QUESTIONS = {"llama-3.1-8b": "rtx4090", "mixtral-8x7b-v0.1": "a100-80gb-sxm", "qwen2.5-72b": "l40s"}


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A config of the catalogue with changes."""
    found = catalogue.find(name)
    assert found is not None
    assert found.config is not None
    return {**found.config, **changes}


def answer(name: str) -> tuple[list[Change], Bench]:
    """What a plan says of training a model on its GPU that fits, and a bench to judge it on."""
    raw = config(name)
    found, fleet = Subject(Source(name, "config", raw), model_from_config(raw), "config"), Fleet(find(QUESTIONS[name]))
    made = plan(found, TrainJob(), fleet)
    assert not made.verdict.fits
    advised = [*made.changes, *([made.combination] if made.combination else [])]
    return [change for change in advised if change.status == FITS], Bench(found, fleet)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_what_is_advised_fits_and_is_what_the_trace_sees(name: str) -> None:
    """A 24 GB card trains Llama-3.1-8B, one A100 Mixtral-8x7B, 48 GB Qwen2.5-72B.

    Every advised job fits, and on two layers has each event of real transformers, PEFT and bitsandbytes.
    """
    advised, bench = answer(name)
    assert advised
    for change in advised:
        assert bench.fits(job_of(change))
        job = without_packages(job_of(change))
        parting, ours, theirs = compare(config(name, num_hidden_layers=2), job)
        assert parting is None, str(parting)
        assert ours == theirs
