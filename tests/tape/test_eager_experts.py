"""experts=eager against real CPU runs: which experts are hit depends on values, which no trace without memory has.

The routing that the tape assumes is forced on the run: the indices that the router's topk returns are overwritten.
Under the tracker gradients are summed out of place, as on the tape's "trace".
"""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any, get_args
from unittest.mock import patch

import pytest

from oomph.compare import first_difference, peak_bytes, steps
from oomph.job import TrainJob
from oomph.job_words import Routing
from oomph.trace_groups import trace_start
from tests.referee import models
from tests.tape import vision_kin
from tests.tape.grid import CHECKPOINTING, played

pytestmark = pytest.mark.slow

PLAIN: dict[str, Any] = {"precision": "fp32", "attention": "eager", "experts": "eager"}
MODELS = {
    "mixtral": {**models.MIXTRAL, "sliding_window": None},
    "qwen3_moe": {**models.QWEN3_MOE, "norm_topk_prob": True},
    "dbrx": {
        "model_type": "dbrx", "vocab_size": 515, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}, "num_experts_per_tok": 2,
        "ffn_config": {
            "hidden_size": 64, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "moe_jitter_eps": 0.0
        },
    },
}  # fmt: skip
STEP = vision_kin.config(Random(1), "step3p7")
STEP["text_config"] |= {
    "attention_dropout": 0.0,
    "mlp_layer_types": ["sparse"] * STEP["text_config"]["num_hidden_layers"],
}
MODELS["step3p7"] = {**STEP, "num_experts_per_tok": 2}
EXPERTS = {"mixtral": 4, "qwen3_moe": 8, "dbrx": 4, "step3p7": 4}
OWN_LOOPS = ("dbrx", "step3p7")  # of classes that know no other form
CASES = [
    (name, routing, checkpointing)
    for name, routing, checkpointing in product(MODELS, get_args(Routing), CHECKPOINTING)
    if name not in OWN_LOOPS or (routing == "worst") == (checkpointing == "non-reentrant")
]


@pytest.mark.parametrize(("name", "routing", "checkpointing"), CASES)
def test_every_event_of_a_loop_over_experts_equals_a_real_run(name: str, routing: Any, checkpointing: Any) -> None:
    """Tokens spread evenly or all to the same experts: same allocations, same frees, same order."""
    import torch

    from oomph.referee.trace import trace

    raw = MODELS[name]
    job = TrainJob(2, 37, **PLAIN, routing=routing, checkpointing=checkpointing, optimizer="sgd", accumulation=2)
    tokens, chosen, topk = job.batch * job.seq_len, raw["num_experts_per_tok"], torch.topk
    in_turn = torch.arange(tokens * chosen).reshape(tokens, chosen) % EXPERTS[name]
    forced = in_turn if routing == "balanced" else torch.arange(chosen).repeat(tokens, 1)

    def routed(*args: Any, **kwargs: Any) -> Any:
        values, indices = topk(*args, **kwargs)
        indices.data.copy_(forced)
        return values, indices

    with patch.object(torch, "topk", routed):
        run = trace(raw, job, device="cpu", real=True, layer_marks=False)
    _, ours = played(raw, job)
    theirs = steps(run.stream, trace_start(run.stream))
    parting = first_difference(ours, theirs)
    assert parting is None, str(parting)
    assert peak_bytes(ours) == peak_bytes(theirs)
