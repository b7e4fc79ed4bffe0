"""GPTBigCode of transformers 4: checkpointing leaves the key-value cache on, and it is made of views."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B

LAYERS, HIDDEN, HEAD, TOKENS = 3, 256, 64, 40
SANTACODER = {
    "model_type": "gpt_bigcode", "n_embd": HIDDEN, "n_head": HIDDEN // HEAD, "n_layer": LAYERS, "n_inner": 512,
    "n_positions": 64, "vocab_size": 500, "multi_query": True,
}  # fmt: skip
JOB = TrainJob(batch=2, seq_len=TOKENS // 2, checkpointing="reentrant", use_cache=True, hold_logits=False)


def test_a_cache_keeps_what_each_fused_map_returned() -> None:
    """Keys and values are an eighth of it here, but a view keeps all: queries too, until the outputs die."""
    model = model_from_config(SANTACODER)
    kept = replace(JOB, keeps_cache=True)
    fused = LAYERS * TOKENS * (HIDDEN + 2 * HEAD) * 2
    assert step(model, kept).forward_end == step(model, JOB).forward_end  # outputs died before that
    held = {"hold_logits": True}
    more = step(model, replace(kept, **held)).forward_end - step(model, replace(JOB, **held)).forward_end  # type: ignore[arg-type]
    assert more == fused
    assert step(model, kept).peak == train_step(model, kept).peak


def test_other_classes_switch_it_off() -> None:
    """Llama's does, whatever the version."""
    with pytest.raises(UsageError, match="switches"):
        step(model_from_config(LLAMA_3_8B), replace(JOB, keeps_cache=True))
