"""Steps of optimizers whose packages the tests do not install: what the real ones did, as
scripts/record_optimizer_golden.py wrote it down, and the same of the tape.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from oomph.compare import peak_bytes, steps
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import play
from oomph.stream import Stream
from oomph.trace_groups import trace_start
from tests.referee import models

GOLDEN = Path(__file__).with_name("golden.json")
# Weights of more and of fewer than 4096 and 100000 elements, matrices and vectors, an embedding for positions.
LLAMA = {**models.LLAMA, "num_hidden_layers": 1}
TIED = {**LLAMA, "tie_word_embeddings": True}
GPT2 = {**models.GPT2, "n_layer": 1}
INT8 = {**LLAMA, "intermediate_size": 512}  # weights of whole groups of 256
WIDE = {**LLAMA, "intermediate_size": 10001}  # a side that SOAP leaves as it is
JOBS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"optimizer": "lomo", "checkpointing": "reentrant"}),
    (TIED, {"optimizer": "lomo", "precision": "amp-bf16", "checkpointing": "non-reentrant", "steady": False}),
    (LLAMA, {"optimizer": "adalomo", "steady": False}),
    (GPT2, {"optimizer": "adalomo", "precision": "fp32", "hold_logits": False}),
    (LLAMA, {"optimizer": "grokadamw", "steady": False}),
    (LLAMA, {"optimizer": "apollo_adamw", "optim_rank": 8, "steady": False}),
    (TIED, {"optimizer": "apollo_adamw", "optim_rank": 300, "precision": "fp32", "update_projection": True}),
    (LLAMA, {"optimizer": "apollo_adamw_layerwise", "optim_rank": 8}),
    (LLAMA, {"optimizer": "apollo-mini"}),
    (LLAMA, {"optimizer": "q_galore_adamw8bit", "optim_rank": 8, "steady": False}),
    (TIED, {"optimizer": "q_galore_adamw8bit", "optim_rank": 64, "update_projection": True}),
    (LLAMA, {"optimizer": "q_galore_adamw8bit", "optim_rank": 300, "precision": "fp32"}),
    (INT8, {"optimizer": "q_galore_adamw8bit", "optim_rank": 8, "weight_quant": True, "steady": False}),
    (INT8, {"optimizer": "q_galore_adamw8bit", "optim_rank": 64, "weight_quant": True, "accumulation": 2}),
    (
        INT8,
        {
            "optimizer": "q_galore_adamw8bit_per_layer",
            "optim_rank": 64,
            "weight_quant": True,
            "checkpointing": "reentrant",
        },
    ),
    (LLAMA, {"optimizer": "adam-mini"}),
    (GPT2, {"optimizer": "adam-mini", "steady": False}),
    (LLAMA, {"optimizer": "lion", "steady": False}),
    (GPT2, {"optimizer": "came", "steady": False}),
    (LLAMA, {"denominators_apart": True}),
    (GPT2, {"denominators_apart": True, "optimizer": "adamw-amsgrad", "steady": False}),
    (
        LLAMA,
        {"denominators_apart": True, "method": "lora", "autocast": True, "modules_to_save": "embed_tokens,lm_head"},
    ),
    (LLAMA, {"optimizer": "prodigy", "steady": False}),
    (GPT2, {"optimizer": "prodigy", "precision": "amp-bf16"}),
    (GPT2, {"optimizer": "dadapt-adam", "steady": False}),
    (TIED, {"optimizer": "dadapt-adam"}),
    (LLAMA, {"optimizer": "soap", "steady": False}),
    (WIDE, {"optimizer": "soap"}),
    (WIDE, {"optimizer": "soap", "precision": "fp32", "update_projection": True}),
    (TIED, {"optimizer": "soap", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {"optimizer": "shampoo", "steady": False}),
    (GPT2, {"optimizer": "shampoo", "precision": "amp-bf16"}),
    (LLAMA, {"optimizer": "sophia-g"}),
    (GPT2, {"optimizer": "sophia-g", "precision": "amp-bf16", "steady": False}),
    (LLAMA, {"optimizer": "adopt", "steady": False}),
    (LLAMA, {"optimizer": "adopt", "method": "lora", "modules_to_save": "lm_head"}),
    (GPT2, {"optimizer": "adan", "steady": False}),
    (GPT2, {"optimizer": "adamw-master", "steady": False}),
    (TIED, {"optimizer": "adamw-master", "precision": "amp-bf16", "accumulation": 2}),
    (LLAMA, {"optimizer": "muon-llama-factory", "steady": False}),
    (TIED, {"optimizer": "muon-llama-factory", "precision": "amp-bf16", "accumulation": 2}),
    (GPT2, {"optimizer": "muon-llama-factory", "precision": "fp32"}),
    (models.QWEN2, {"method": "badam", "checkpointing": "reentrant", "clip_gradients": True, "set_to_none": False}),
]


def name(raw: dict[str, Any], inputs: dict[str, Any]) -> str:
    """What a job is called in the file."""
    tied = "-tied" * bool(raw.get("tie_word_embeddings"))
    wide = "-wide" * (raw.get("intermediate_size") == WIDE["intermediate_size"])
    return f"{raw['model_type']}{tied}{wide} {json.dumps(inputs)}"


def job(inputs: dict[str, Any]) -> TrainJob:
    """The job of a few inputs."""
    return TrainJob(1, 8, **inputs)


def summary(stream: Stream, start: int, state_bytes: int) -> dict[str, Any]:
    """A step in short. Within a run of frees the order does not count: it depends on the version of Python."""
    events = steps(stream, start, unordered_frees=True)
    text = "\n".join(f"{one.sign} {one.number} {one.n_bytes}" for one in events)
    return {
        "events": len(events),
        "peak_bytes": peak_bytes(events),
        "state_bytes": state_bytes,
        "digest": sha256(text.encode()).hexdigest()[:32],
    }


def of_tape(raw: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The summary of the tape's step as a trace would see it."""
    found = play(model_from_config(raw), job(inputs), on="trace")
    stream = found.recorder.stream()
    stream.events = stream.events[: found.end]
    return summary(stream, found.start, found.kept("optimizer state"))


def of_trace(raw: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """The summary of the real step."""
    from oomph.referee.trace import trace

    traced = trace(raw, job(inputs), layer_marks=False)
    return summary(traced.stream, trace_start(traced.stream), traced.optimizer_bytes)
