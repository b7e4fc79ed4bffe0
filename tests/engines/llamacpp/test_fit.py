"""What --fit arrives at, against a real llama.cpp on pretended GPUs that are too small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.flags import read_flags
from oomph.engines.ik import IkJob
from oomph.engines.llamacpp import builds
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.graph_setup import Build
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.serving import serve
from oomph.errors import UnsupportedError, UsageError
from oomph.units import MIB
from tests.engines.llamacpp import pretended, real, tiny
from tests.engines.llamacpp.fits import CASES, GOLDEN, STORED, config, made_of, with_draft

FITS: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text())["fits"]


def _patterns(overrides: list[list[str]]) -> list[list[str]]:
    """Names of maps stand in any order in a pattern."""
    return [[pattern.replace("up|down|gate|gate_up", "up|down|gate_up|gate"), place] for pattern, place in overrides]


QUICK = ("a shorter context", "fewer layers", "layers that were asked for", "two GPUs", "experts with the host")


@pytest.mark.parametrize(
    "name", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in CASES]
)
def test_what_is_shortened_or_moved_is_what_the_engine_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Context, layers of each GPU, and which tensors go elsewhere; pretended GPUs have no kernels that want memory."""
    monkeypatch.setattr(builds, "NEWEST", Build(kernel_copies=False, fused=False))
    ours, theirs = made_of(name), FITS[name]
    for key in ("n_ctx", "n_gpu_layers", "split"):
        assert ours[key] == theirs[key], key
    assert _patterns(ours["overrides"]) == _patterns(theirs["overrides"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fewer layers", "experts on three GPUs", "experts beside a draft"])
def test_the_engine_still_does_what_was_recorded(name: str, tmp_path: Path) -> None:
    """The recipe of the numbers above."""
    real.needed()
    _, _, free, target, least, asked = CASES[name]
    tiny.write(tmp_path / "tiny.gguf", config(name), STORED)
    assert pretended.fit(tmp_path / "tiny.gguf", free, target, least, **with_draft(asked, tmp_path)) == FITS[name]


def test_a_model_that_is_too_large_is_served_where_it_is_said() -> None:
    """Llama 3.1 8B in Q8_0 on 8 GiB: some layers stay with the host, a GiB is left, and it says so."""
    found, job, gpu = subject("llama-3.1-8b"), LlamaCppJob(context=8192, format="q8_0"), find("rtx-3070")
    program = engine("llama.cpp")
    assert serve(found, program, job, [gpu]).verdict.status == "too_big"  # type: ignore[union-attr]
    fits = LlamaCppJob(context=8192, format="q8_0", fit="on")
    ledger = serve(found, program, fits, [gpu])
    assert ledger.verdict is not None
    assert ledger.verdict.status == "fits"
    assert 1024 * MIB <= gpu.capacity_bytes - ledger.figures[0].n_bytes < 1400 * MIB
    assert [each for each in ledger.assumptions if "--fit on" in each and "of 33 layers" in each]


def test_experts_that_are_elsewhere_are_said() -> None:
    """Qwen3 30B-A3B on 12 GiB: all layers on the GPU, of some the experts with the host."""
    gpu = find("rtx-3060-12gb")
    said = deploy(subject("qwen3-30b-a3b"), LlamaCppJob(format="q4_k_m", context=4096, fit="on"), [gpu]).assumptions[-1]
    assert said.startswith("--fit on: 49 of 49 layers on the GPUs, ")
    assert "with experts or maps elsewhere, a cache of 4,096 tokens" in said


def test_a_draft_is_on_the_gpus_before_the_model_is() -> None:
    """It takes layers from the model, and what is served fits with both."""
    gpu, found = find("rtx-3070"), subject("llama-3.1-8b")
    alone, both = (
        deploy(found, LlamaCppJob(context=8192, format="q8_0", fit="on", draft=draft), [gpu])
        for draft in ("", "llama-3.2-1b:q8_0")
    )
    assert both.shares[0].items[0].n_bytes < alone.shares[0].items[0].n_bytes
    for each in (alone, both):
        room = each.shares[0].room_bytes or 0
        assert 1024 * MIB <= room - each.shares[0].needs(8192, 1) < 1400 * MIB


def test_without_a_context_the_longest_that_fits_is_taken() -> None:
    """All layers stay on the GPU while a shorter context does."""
    job = LlamaCppJob(format="q4_k_m", fit="on")
    deployed = deploy(subject("llama-3.1-8b"), job, [find("rtx-3060-12gb")])
    assert 32768 < deployed.context < 131072
    assert deployed.shares[0].needs(deployed.context, 1) <= deployed.shares[0].room_bytes - 1024 * MIB


@pytest.mark.parametrize(("flags", "named"), [
    ({"fit": "maybe"}, "--fit"), ({"fit_target": "1,x"}, "--fit-target"), ({"fit_target": "-1"}, "--fit-target"),
    ({"fit_ctx": 0}, "--fit-ctx"),
])  # fmt: skip
def test_odd_values_are_named(flags: dict[str, Any], named: str) -> None:
    """Words that the server does not take."""
    with pytest.raises(UsageError, match=named):
        LlamaCppJob(**flags)


def test_what_is_not_known_is_refused_by_name() -> None:
    """A graph that is not known has no buffers to reckon with; ik_llama.cpp has a --fit of its own."""
    with pytest.raises(UnsupportedError, match="jamba"):
        deploy(subject("jamba-v0.1"), LlamaCppJob(format="q8_0", fit="on"), [find("rtx-4090")])
    with pytest.raises(UnsupportedError, match="ik_llama"):
        IkJob(fit="on")


def test_the_flags_are_read() -> None:
    """As they are typed."""
    job = read_flags(engine("llama.cpp"), ["-fit", "on", "-fitt", "512,256", "-fitc", "8192"]).job
    assert isinstance(job, LlamaCppJob)
    assert (job.fits, job.margins(3), job.fit_ctx) == (True, (512 * MIB, 256 * MIB, 1024 * MIB), 8192)


def test_without_a_gpu_to_fit_it_on_that_is_said() -> None:
    """The flag does nothing then, and the answer says so."""
    job = LlamaCppJob(fit="on", format="q8_0")
    assert any("no --gpu to fit it on" in each for each in deploy(subject("qwen3-0.6b"), job).assumptions)
