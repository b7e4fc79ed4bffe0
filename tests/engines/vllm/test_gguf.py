"""GGUF files in vLLM: blocks as they lie in the file, padded side by side since 0.9, and not read since 0.24."""

from __future__ import annotations

import pytest

from oomph.answer import subject
from oomph.engines.vllm import VllmJob, deploy
from oomph.engines.vllm.gguf import Rows, side_by_side
from oomph.errors import UnsupportedError


def _weights(name: str, fmt: str, **flags: object) -> float:
    """Return what "Loading model weights took" prints."""
    job = VllmJob(format=fmt, max_model_len=200, **flags)  # type: ignore[arg-type]
    return next(line.value for line in deploy(subject(name), job, []).printed if line.name == "weights_gib")


def test_a_file_takes_what_the_log_says() -> None:
    """Qwen2-7B-Instruct in Q4_K_M took 4.3752 GiB in vLLM 0.6.3 (vllm-project/vllm issue 12346)."""
    assert _weights("qwen2-7b-instruct", "q4_k_m", version="0.6.3") == pytest.approx(4.3752, abs=2e-4)


def test_rows_side_by_side_are_as_wide_as_the_widest_since_09() -> None:
    """Values in Q6_K make queries and keys in Q4_K as wide, so that a file takes more than its tensors."""
    before = _weights("qwen2-7b-instruct", "q4_k_m", version="0.8.5")
    assert _weights("qwen2-7b-instruct", "q4_k_m", version="0.10.2") > before + 0.03
    assert _weights("qwen2-7b-instruct", "q8_0", version="0.10.2") == pytest.approx(
        _weights("qwen2-7b-instruct", "q8_0", version="0.8.5"), abs=1e-3
    )
    parts = [Rows("q", "Q4_K", 2, 144), Rows("v", "Q6_K", 1, 210)]
    assert side_by_side(parts, padded=True) == (3 * 210, "Q6_K")
    assert side_by_side(parts, padded=False) == (2 * 144 + 210, "Q6_K")


def test_two_devices_hold_half_the_blocks_each() -> None:
    """Maps are cut by whole rows and whole blocks; norms are on both."""
    alone, half = (_weights("llama-3.1-8b-instruct", "q8_0", version="0.19.0", tensor_parallel=n) for n in (1, 2))
    assert half == pytest.approx(alone / 2, rel=0.01)


def test_experts_lie_in_two_tensors() -> None:
    """A mixture's file is held as it is, but for rows that are padded."""
    assert _weights("qwen3-30b-a3b", "q4_k_m", version="0.19.0") == pytest.approx(17.3, abs=0.2)


@pytest.mark.parametrize(
    ("name", "flags", "why"),
    [
        ("qwen2-7b-instruct", {}, "reads no GGUF files"),
        ("qwen2-7b-instruct", {"version": "0.24.0"}, "reads no GGUF files"),
        ("deepseek-v2-lite", {"version": "0.19.0"}, "latent attention"),
        ("qwen2-7b-instruct", {"version": "0.19.0", "enable_lora": True}, "adapters"),
    ],
)
def test_what_is_not_loaded_is_refused_by_name(name: str, flags: dict[str, object], why: str) -> None:
    """Versions without the loader, models it does not know, and slots beside blocks."""
    with pytest.raises(UnsupportedError, match=why):
        _weights(name, "q4_k_m", **flags)


def test_rows_that_are_no_whole_blocks_are_not_cut() -> None:
    """A device's part of down_proj must be whole blocks of 256."""
    with pytest.raises(UnsupportedError, match="no whole blocks"):
        _weights("qwen2-7b-instruct", "q4_k_m", version="0.19.0", tensor_parallel=4)
