"""Counting through the real class, in a process that a hostile config cannot use."""

from __future__ import annotations

import time
from math import prod
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.referee import isolated, meta
from tests.families.referee import real_tensors

pytestmark = pytest.mark.slow
TINY = {
    "model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "hidden_size": 48, "num_layers": 2,
    "attention_types": [[["global", "local"], 1]], "num_heads": 4, "vocab_size": 131, "max_position_embeddings": 40,
}  # fmt: skip


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(UnsupportedError) as caught:
        meta.count(raw)
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_every_parameter_of_the_real_class() -> None:
    """Names and shapes, the tied head once."""
    found = meta.count(TINY)
    assert found == real_tensors(TINY)
    assert sum(map(prod, found.values())) == 48 * (131 + 40) + 2 * (12 * 48**2 + 10 * 48) + 2 * 48


def test_keys_that_only_matter_at_run_time_are_ignored() -> None:
    """Quantised, flash attention, fp8, remote code: the parameters are the same."""
    extra = {
        "quantization_config": {"quant_method": "awq", "bits": 4}, "torch_dtype": "float8_e4m3fn",
        "attn_implementation": "flash_attention_2", "_attn_implementation": "flash_attention_2",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "trust_remote_code": True,
        "architectures": ["EvilForCausalLM"],
    }  # fmt: skip
    assert meta.count({**TINY, **extra}) == real_tensors(TINY)


def test_code_of_the_model_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A modeling file in the working directory, named by auto_map, stays unread."""
    monkeypatch.chdir(tmp_path)
    for name in ("evil", "torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    says = refusal({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    assert "no architecture 'evil' either" in says
    assert not (tmp_path / "ran").exists()


def built_here(raw: dict[str, Any], _model_type: str) -> dict[str, Any]:
    """What the other process answers, made in this one."""
    try:
        return meta._build(dict(raw), lambda _: None)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["a"]},
        {"hidden_size": -5},
        {"hidden_size": "many"},
        {"num_heads": 7},
        {"attention_types": "x" * 10_000},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_cannot_be_built_is_said(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Impossible configs: exit code 3 and one line of reason; one of them in a process of its own."""
    if changes != {"num_heads": 7}:
        monkeypatch.setattr(meta, "_ask", built_here)
        monkeypatch.setattr(isolated, "limit_memory", lambda n_bytes: None)
    message = refusal({**TINY, **changes})
    assert "cannot build" in message
    assert len(message) < 700


def test_a_class_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million layers: the time limit ends it."""
    monkeypatch.setattr(meta, "SECONDS", 8)
    start = time.monotonic()
    layers = {"num_layers": 2_000_000, "attention_types": [[["global", "local"], 1_000_000]]}
    assert "more than 8 seconds" in refusal({**TINY, **layers})
    assert time.monotonic() - start < 30


def test_a_class_that_eats_memory_is_stopped() -> None:
    """A billion attention types are expanded into a list: the memory limit ends it, not the machine's."""
    says = refusal({**TINY, "num_layers": 2_000_000_000, "attention_types": [[["global", "local"], 1_000_000_000]]})
    assert "MemoryError" in says or "without an answer" in says


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named."""
    monkeypatch.setattr(meta, "find_spec", lambda name: None)
    assert 'pip install "oomph[trace]"' in refusal(TINY)
