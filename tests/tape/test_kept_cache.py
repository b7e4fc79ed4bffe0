"""Caches of transformers 4: made of views, and GPTBigCode's is left on by checkpointing."""

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


def test_a_heads_of_4_51_makes_products_copy_what_it_keeps() -> None:
    """Heads of several sequences are no batch of matrices, so keys and values stand twice; without a cache nothing is
    changed."""
    shape = {
        "hidden_size": HIDDEN,
        "num_heads": HIDDEN // HEAD,
        "num_layers": LAYERS,
        "vocab_size": 500,
        "max_position_embeddings": 64,
    }
    model = model_from_config({"model_type": "gpt_neo", **shape, "attention_types": [[["global"], LAYERS]]})
    job = TrainJob(batch=2, seq_len=TOKENS // 2, precision="fp32", use_cache=True, keep_outputs=True)
    views = replace(job, heads_of_4_51=True)
    more = step(model, views).forward_end - step(model, job).forward_end
    assert more == LAYERS * 2 * TOKENS * HIDDEN * 4
    assert step(model, replace(views, use_cache=False)).peak == step(model, replace(job, use_cache=False)).peak


def test_heads_are_copied_for_torchs_attention() -> None:
    """GPT-2's queries, keys and values are views of what one map returned, which its gradient has no use for."""
    shape = {"n_embd": HIDDEN, "n_head": HIDDEN // HEAD, "n_layer": LAYERS, "vocab_size": 500, "n_positions": 64}
    model = model_from_config({"model_type": "gpt2", **shape})
    job = TrainJob(batch=2, seq_len=TOKENS // 2, padding=True, attention="efficient")
    more = step(model, replace(job, heads_of_4_51=True)).forward_end - step(model, job).forward_end
    assert more == 0
    job = replace(job, use_cache=True, keep_outputs=True)
    more = step(model, replace(job, heads_of_4_51=True)).forward_end - step(model, job).forward_end
    assert more == LAYERS * TOKENS * HIDDEN * 2
