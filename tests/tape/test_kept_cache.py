"""Caches of transformers 4: made of views, and GPTBigCode's is left on by checkpointing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.tape.grid import compare

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


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neo"])
def test_every_event_equals_the_trace_of_code_that_does_so(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5 with two functions as in 4.51: a cache that takes what it is given, and heads made contiguous,
    those that several queries share repeated first."""
    from transformers import cache_utils
    from transformers.integrations import sdpa_attention as sdpa

    def update(self: Any, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.is_initialized, self.keys, self.values = True, key_states, value_states
        return key_states, value_states

    def contiguous(module: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
        groups = getattr(module, "num_key_value_groups", 1)
        key = sdpa.repeat_kv(key, groups)
        value = sdpa.repeat_kv(value, groups)
        query = query.contiguous()
        key = key.contiguous()
        value = value.contiguous()
        return taken(HeadsApart, query, key, value, *rest, **options)

    class HeadsApart:
        is_causal = True

    taken = sdpa.sdpa_attention_forward
    monkeypatch.setattr(cache_utils.DynamicLayer, "update", update)
    monkeypatch.setitem(sdpa_functions(), "sdpa", contiguous)
    raw = {
        "model_type": model_type, "vocab_size": 515, "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "intermediate_size": 64, "num_key_value_heads": 2,
        "attention_types": [[["global"], 2]],
    }  # fmt: skip
    job = TrainJob(
        batch=2, seq_len=37, precision="fp32", attention="efficient", padding=True, use_cache=True, keep_outputs=True,
        heads_of_4_51=True, zero_grad="before-forward",
    )  # fmt: skip
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


def sdpa_functions() -> Any:
    """The table in which transformers looks attention up."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS._global_mapping
