"""A draft beside the model: both as a real llama.cpp logs them, and what is not modelled of drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomph.answer import resolve, subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.flags import read_flags
from oomph.engines.ik import IkJob
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.words import words
from oomph.errors import UnsupportedError
from oomph.header import Source
from tests.engines.llamacpp import real, tiny

HUNDREDTH = 0.0051  # half of the last decimal, in MiB
LLAMA = subject("llama-3.1-8b")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "draft", "flags", "params"),
    [
        ("qwen3", "llama", {"ctx_size": 4096, "parallel": 2}, {"n_ctx": 4096, "n_parallel": 2}),
        (
            "gemma3", "qwen2", {"ctx_size": 6000, "parallel": 1, "draft_max": 40, "draft_cache_type_k": "q8_0"},
            {"n_ctx": 6000, "n_parallel": 1, "draft_n_max": 40, "draft_cache_type_k": "q8_0"},
        ),
    ],
)  # fmt: skip
def test_both_are_what_a_real_server_logs(
    model: str, draft: str, flags: dict[str, Any], params: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, caches and compute buffers of both models together; of the model logits of each guess are computed."""
    real.needed()
    tiny.write(tmp_path / "model.gguf", tiny.CONFIGS[model], "q8_0")
    tiny.write(tmp_path / "draft.gguf", tiny.CONFIGS[draft], "gguf-f16")
    said = real.start(tmp_path / "model.gguf", no_extra_bufts=True, draft=str(tmp_path / "draft.gguf"), **params)
    nowhere = {"gpu_layers": 0, "draft_gpu_layers": 0}
    job = LlamaCppJob(**flags, format="q8_0", draft=str(tmp_path / "draft.gguf"), spec_type="draft-simple", **nowhere)
    lines = {
        line.name: line.value for line in deploy(resolve(Source(model, "config", tiny.CONFIGS[model])), job).printed
    }
    for name, kind in (("model_host_mib", "model"), ("kv_mib", "KV"), ("host_buffer_mib", "compute")):
        assert lines[name] + lines[f"draft_{name}"] == pytest.approx(said.mib(kind), abs=2 * HUNDREDTH), name


def test_a_draft_takes_of_each_gpu_what_a_server_of_its_own_would() -> None:
    """Llama 3.2 1B beside 3.1 8B: one context of CUDA, everything else of both; more guesses take more."""
    gpu, plain = find("rtx-4090"), LlamaCppJob(context=8192, format="q8_0")
    alone = deploy(LLAMA, plain, [gpu])
    small = deploy(subject("llama-3.2-1b"), LlamaCppJob(context=8192, format="q4_k_m"), [gpu])
    job = LlamaCppJob(context=8192, format="q8_0", draft="llama-3.2-1b:Q4_K_M")
    both = deploy(LLAMA, job, [gpu])
    for share, one, other in zip(both.shares, alone.shares, small.shares, strict=True):
        assert share.needs(8192, 1) == one.needs(8192, 1) + other.needs(8192, 1)
        assert sum(item.n_bytes for item in share.held(8192, 1)) == share.needs(8192, 1)
        weights = {item.name: item.n_bytes for item in share.items}
        assert weights["weights of the draft"] == other.items[0].n_bytes
    assert both.shares[0].room_bytes == (alone.shares[0].room_bytes or 0) - small.shares[0].items[0].n_bytes


@pytest.mark.parametrize("name", ["llama-3.2-1b:Q4_K_M", "models/Llama-3.2-1B-Instruct-Q4_K_M.gguf",
                                  "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"])  # fmt: skip
def test_a_draft_is_known_by_its_name(name: str) -> None:
    """As a file or a repository of files is called, where it is not there itself; the command calls it by its file."""
    held = deploy(LLAMA, LlamaCppJob(context=8192, format="q8_0", draft=name)).shares[0].items
    model = "llama-3.2-1b" if ":" in name and "/" not in name else "llama-3.2-1b-instruct"
    other = deploy(subject(model), LlamaCppJob(context=8192, format="q4_k_m")).shares[0].items
    assert held[-1].n_bytes == other[0].n_bytes
    said = words(LlamaCppJob(draft=name))
    assert said[:1] == ["-md"]
    assert said[1].endswith("-Q4_K_M.gguf")
    assert deploy(LLAMA, LlamaCppJob(context=8192, format="q8_0", draft=said[1])).shares[0].items == held


def test_guesses_have_logits_of_their_own() -> None:
    """64 of ngram-mod beside the last token, of each of eight slots."""
    eight = LlamaCppJob(context=8192, format="q8_0", parallel=8)
    guessing = LlamaCppJob(context=8192, format="q8_0", parallel=8, spec_type="ngram-mod")
    plain, more = (deploy(LLAMA, job, [find("rtx-4090")]).shares[0].needs(8192, 1) for job in (eight, guessing))
    assert more > plain


def test_the_flags_of_a_draft_are_read() -> None:
    """As they are typed, old spellings too; the draft's layers stay with the host where that is said."""
    words = ["-md", "llama-3.2-1b:q8_0", "-ngld", "0", "-ctkd", "q8_0", "--spec-type", "draft-simple", "-c", "4096"]
    job = read_flags(engine("llama.cpp"), words).job
    assert isinstance(job, LlamaCppJob)
    deployed = deploy(LLAMA, LlamaCppJob(**{**vars(job), "format": "q8_0"}), [find("rtx-4090")])
    assert not next(item.n_bytes for item in deployed.shares[0].items if item.name == "weights of the draft")


@pytest.mark.parametrize(("flags", "named"), [
    ({"draft": "no-such-model"}, "no-such-model"), ({"draft": "llama-3.2-1b:q9_9"}, "llama-3.2-1b"),
])  # fmt: skip
def test_drafts_that_are_not_known_are_named(flags: dict[str, Any], named: str) -> None:
    """With what to do instead."""
    with pytest.raises(UnsupportedError, match=named):
        deploy(LLAMA, LlamaCppJob(context=4096, format="q8_0", **flags), [find("rtx-4090")])


def test_other_ways_to_guess_are_refused_by_name() -> None:
    """Heads on hidden states, and ik_llama.cpp's drafts."""
    with pytest.raises(UnsupportedError, match="draft-eagle3"):
        LlamaCppJob(spec_type="draft-eagle3")
    with pytest.raises(UnsupportedError, match="ik_llama"):
        IkJob(draft="llama-3.2-1b")
