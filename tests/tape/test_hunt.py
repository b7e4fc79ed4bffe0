"""A hunt for jobs on which the tape parts from the trace: any sizes, any inputs the tape plays.

Fifteen jobs, always the same ones. By hand, `OOMPH_HUNT=2000 pytest -m slow tests/tape/test_hunt.py` looks at as
many new ones; what it finds goes into test_found.py before it is mended.
"""

from __future__ import annotations

import os
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from oomph.job import TrainJob
from oomph.job_words import Implementation
from tests.conftest import settle
from tests.tape.grid import CHECKPOINTING, FAMILIES, compare

pytestmark = pytest.mark.slow

HUNT = os.environ.get("OOMPH_HUNT")
EXAMPLES = 15
POSITIONS = 160  # at least as many as any job has tokens
FLASH_STEP, WIDEST_HEAD = 8, 256  # head sizes flash takes as they are
BIAS_KEYS = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}

anything = st.booleans()


def head_sizes(kernel: str) -> st.SearchStrategy[int]:
    """Head sizes a kernel takes: even ones, because rotary embedding halves them."""
    step = FLASH_STEP if kernel == "flash" else 2
    return st.one_of(st.integers(1, 6), st.integers(1, WIDEST_HEAD // step)).map(lambda n: n * step)


@st.composite
def configs(draw: st.DrawFn, model_type: str, kernel: str) -> dict[str, Any]:
    """Configs of a family, each dimension on its own as far as the class allows."""
    heads = draw(st.integers(1, 8))
    raw: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": draw(st.integers(2, 3000)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": draw(anything),
    }
    ffn = draw(st.integers(1, 700))
    head_size = draw(head_sizes(kernel))
    if model_type == "gpt2":
        return raw | {"hidden_size": heads * head_size, "n_inner": draw(st.sampled_from([None, ffn]))}
    own_head_size = draw(anything)  # apart from hidden_size / heads
    raw |= {
        "hidden_size": heads * (draw(st.integers(1, 60)) if own_head_size else head_size),
        "intermediate_size": ffn,
        "num_key_value_heads": draw(st.sampled_from([n for n in range(1, heads + 1) if not heads % n])),
    }
    if own_head_size or model_type == "qwen3":  # whose default is 128
        raw["head_dim"] = head_size
    if model_type == "mistral":
        raw["sliding_window"] = None
    return raw | {key: draw(anything) for key in BIAS_KEYS.get(model_type, ())}


@st.composite
def jobs(draw: st.DrawFn, kernel: Any) -> TrainJob:
    """Jobs of every input the tape plays."""
    precisions = ["bf16", "fp16", "amp-bf16", "amp-fp16", *["fp32"] * (kernel == "eager")]
    return TrainJob(
        batch=draw(st.integers(1, 4)),
        seq_len=draw(st.one_of(st.just(1), st.integers(1, POSITIONS))),
        precision=draw(st.sampled_from(precisions)),
        attention=kernel,
        dropout=draw(anything),
        checkpointing=draw(st.sampled_from(CHECKPOINTING)),
        checkpoint_every=draw(st.integers(1, 4)),
        hold_logits=draw(anything),
        fp32_outputs=draw(anything),
        accumulation=draw(st.integers(1, 3)),
        clip_gradients=draw(anything),
        optimizer=draw(st.sampled_from(["adamw", "sgd", "sgd-momentum", "none"])),
        implementation=draw(st.sampled_from(get_args(Implementation))),
        steady=draw(anything),
        set_to_none=draw(anything),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], TrainJob]:
    """A config and a job that go together."""
    model_type = draw(st.sampled_from(FAMILIES))
    kernel = "flash" if model_type == "gpt2" else draw(st.sampled_from(["flash", "eager"]))
    return draw(configs(model_type, kernel)), draw(jobs(kernel))


@settings(
    max_examples=int(HUNT or EXAMPLES),
    derandomize=HUNT is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(cases())
def test_no_job_parts_tape_and_trace(case: tuple[dict[str, Any], TrainJob]) -> None:
    """Whatever the sizes and inputs, the two streams are equal event by event."""
    settle()
    parting, ours, theirs = compare(*case)
    note(str(parting))
    assert parting is None
    assert ours == theirs
