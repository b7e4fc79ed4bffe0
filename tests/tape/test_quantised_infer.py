"""estimate == trace where weights are quantised and nothing trains: bitsandbytes, HQQ, GPTQModel's plain kernel."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.job import InferJob
from tests.tape.grid import compare

pytestmark = pytest.mark.slow

QWEN: dict[str, Any] = {
    "model_type": "qwen2", "vocab_size": 512, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 384,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
JOBS = (
    InferJob(2, 40, decode=2, quantization="nf4-dq"),
    InferJob(1, 40, decode=1, quantization="fp4", compute_fp32=True, precision="fp16"),
    InferJob(1, 7, decode=2, quantization="int8", precision="fp16", cache="static"),
    InferJob(2, 40, decode=1, quantization="gptq-4bit-g64", precision="fp16"),
    InferJob(1, 40, decode=1, quantization="hqq-4bit"),
)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.quantization)
def test_every_event_of_a_pass_equals_the_trace(job: InferJob) -> None:
    """Prefill and single tokens, with the library's own maps: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(QWEN, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("inputs", [{"quantization": "awq"}, {"quantization": "fp8"}, {"release": "4.38"}])
def test_what_a_trace_cannot_run_is_refused(inputs: dict[str, Any]) -> None:
    """By name, with the way to an answer."""
    from oomph.referee.trace import trace

    with pytest.raises(UnsupportedError, match="trace"):
        trace(QWEN, InferJob(1, 8, **inputs))
