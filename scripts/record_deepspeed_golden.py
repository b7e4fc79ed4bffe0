"""Record what DeepSpeed's ZeRO-1 and ZeRO-2 allocate on one rank: tests/optimizers/deepspeed_events.json.

    pip install deepspeed torch transformers
    DS_ACCELERATOR=cpu python scripts/record_deepspeed_golden.py

DeepSpeed runs on a CPU, with gloo, torch's fused AdamW in the place of its FusedAdam (both work in place) and a tiny
Llama. Kept are, of a first and a second step, tensors of a kilobyte and more: every event of the optimizer's step, and
of the backward passes those of matrices' gradients and of what DeepSpeed itself makes. An event is the number of a
tensor, or its complement where it is freed, in order; a tensor is its bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "tests" / "optimizers" / "deepspeed_events.json"
CONFIG = {
    "vocab_size": 515, "hidden_size": 64, "intermediate_size": 331, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = 9
CASES: list[dict[str, Any]] = [
    {"stage": 1, "accumulation": 1, "bucket": 25000},
    {"stage": 1, "accumulation": 2, "bucket": 500000},
    {"stage": 2, "accumulation": 1, "bucket": 25000},
    {"stage": 2, "accumulation": 2, "bucket": 40000},
    {"stage": 2, "accumulation": 1, "bucket": 500000, "overlap": True},
    {"stage": 2, "accumulation": 2, "bucket": 25000, "offload": True},
]
OWN = ("empty",)  # what DeepSpeed calls for buffers
LEAST = 1024  # bytes


def main() -> None:
    """Record all cases, one after another."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1, "MASTER_PORT": 29513}.items():
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    import deepspeed
    import torch
    import transformers

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    found = {
        "versions": {one.__name__: one.__version__ for one in (deepspeed, torch, transformers)},
        "config": {"model_type": "llama", **CONFIG},
        "tokens": TOKENS,
        "cases": [{**case, **_recorded(case)} for case in CASES],
    }
    TARGET.write_text(json.dumps(found) + "\n", encoding="utf-8")


def _recorded(case: dict[str, Any]) -> dict[str, Any]:
    import deepspeed
    import torch
    import transformers

    from oomph.referee.tracker import Tracker

    tracker = Tracker()
    with tracker:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG, attn_implementation="eager"))
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=torch.optim.AdamW(model.parameters(), fused=True), config=_config(case)
        )
        ids = torch.randint(0, CONFIG["vocab_size"], (1, TOKENS))
        for at in range(2 * case["accumulation"]):
            tracker.mark("forward")
            loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
            tracker.mark("backward")
            engine.backward(loss)
            del loss
            tracker.mark("step" if (at + 1) % case["accumulation"] == 0 else "between")
            engine.step()
        tracker.mark("end")
    shapes = {tuple(one.shape) for one in model.parameters() if one.dim() > 1}
    kept = ("backward",) if case.get("offload") else ("backward", "step", "between")  # of a step on the host nothing
    return _kept(tracker.stream, shapes, kept)


def _config(case: dict[str, Any]) -> dict[str, Any]:
    zero = {"stage": case["stage"], "reduce_bucket_size": case["bucket"], "overlap_comm": case.get("overlap", False)}
    if case.get("offload"):
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": case["accumulation"],
        "bf16": {"enabled": True}, "zero_optimization": zero, "gradient_clipping": 1.0,
        "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip


def _kept(stream: Any, shapes: set[tuple[int, ...]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the events of steps, and of backward passes those of gradients and buffers."""
    numbers: dict[int, int] = {}
    sizes: list[int] = []
    phases: list[Any] = []
    ends = [position for position, _ in stream.marks[1:]]
    for (begin, name), end in zip(stream.marks, ends, strict=False):
        if name not in names:
            continue
        events: list[int] = []
        for event in stream.events[begin:end]:
            label = stream.labels[event.ordinal]
            if event.n_bytes >= LEAST and (name == "step" or label.op in OWN or tuple(label.shape) in shapes):
                numbers[event.ordinal] = len(sizes)
                sizes.append(event.n_bytes)
                events.append(numbers[event.ordinal])
            elif event.n_bytes < 0 and event.ordinal in numbers:
                events.append(~numbers[event.ordinal])
        phases.append([name, events])
    return {"sizes": sizes, "phases": phases}


if __name__ == "__main__":
    main()
