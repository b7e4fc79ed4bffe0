"""Record what LitGPT's real code allocates and frees in the jobs of tests/methods/litgpt_jobs.py, without memory.

    python scripts/record_litgpt_golden.py CODE PATH [--show]

CODE is the name of a release in oomph (litgpt, litgpt-0.4, litgpt-0.3, lit-gpt); PATH holds its package, litgpt or
lit_gpt: of 0.5.13 and 0.4.13 the wheel, unpacked; of the others a checkout of commits 5895df10 and 0cc02afa. lightning
2.6 (with lightning-utilities and torchmetrics) has the wrapper around the model. The loop is `fit` of finetune/lora.py
with what concerns neither logging nor data; inputs die after their backward pass, and a loss is divided only if there
are several micro-batches. Writes the jobs of that release in tests/methods/litgpt_golden.json; --show says where tape
and real code part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from oomph.compare import first_difference, steps  # noqa: E402
from oomph.families import model_from_config  # noqa: E402
from oomph.job import TrainJob  # noqa: E402
from oomph.methods.litgpt import TARGETS  # noqa: E402
from oomph.play import play  # noqa: E402
from oomph.referee import fake, optimizers  # noqa: E402
from oomph.referee.trace import _cut, collected  # noqa: E402
from oomph.referee.tracker import Tracker, aten  # noqa: E402
from oomph.referee.watch import TrackerWatcher, passes  # noqa: E402
from oomph.trace_groups import trace_start  # noqa: E402
from tests.methods.litgpt_jobs import GOLDEN, MODELS, PLUS_ONE, jobs, summary, told  # noqa: E402

OLD_NAMES = {"norm_class_name": "_norm_class", "mlp_class_name": "_mlp_class"}
CHUNK = 128
fake.YES = (*fake.YES, aten.gt.Scalar)  # max(1, count of tokens) asks: there are more than one


class HostScalars(Tracker):
    """A tracker that knows torch.tensor(number), which a model multiplies by, to be in host memory."""

    def _made_on_host(self, tensor: torch.Tensor, func: Any) -> bool:
        return (func is aten.lift_fresh.default and tensor.dim() == 0) or super()._made_on_host(tensor, func)


def build(code: str, name: str, job: TrainJob) -> Any:
    """Return LitGPT's module for a job, with nothing frozen but what its recipe freezes."""
    package = "lit_gpt" if code == "lit-gpt" else "litgpt"
    files = {"full": "model", "lora": "lora"}
    module = import_module(f"{package}.{files.get(job.method, job.method)}")
    config_class = import_module(f"{package}.config").Config if job.method == "full" else module.Config
    options = dict(MODELS[name][1])
    if job.method == "lora":
        short = code == "lit-gpt"
        own = {"r": job.rank, "alpha": 16, "dropout": job.adapter_dropout}
        options |= own if short else {f"lora_{key}": value for key, value in own.items()}
        options |= {f"{'to_' if short else 'lora_'}{each}": each in job.targets.split(",") for each in TARGETS}
    known = {each.name for each in dataclasses.fields(config_class)}
    options = {key if key in known else OLD_NAMES.get(key, key): value for key, value in options.items()}
    if "sliding_window_indices" in known and "sliding_window_size" in options:
        options.setdefault("sliding_window_indices", [1 - i % 2 for i in range(options["n_layer"])])
    elif "sliding_window_size" in options:
        options["sliding_window_layer_placing"] = "interleaved"
    config = config_class(**{key: value for key, value in options.items() if key in known})
    config.name = "Gemma" if name in PLUS_ONE else config.name
    model = module.GPT(config)
    if job.method != "full":
        getattr(module, f"mark_only_{job.method}_as_trainable")(model)
    return model


def fit(model: Any, inner: Any, job: TrainJob, watcher: Any, chunked_cross_entropy: Any) -> None:
    """Mirror `fit`: a validation, a step to warm up if the job is a later one, and the step that counts."""
    optimizer = torch.optim.AdamW([each for each in inner.parameters() if each.requires_grad], foreach=True)
    model.max_seq_length = job.seq_len
    inputs = torch.zeros(job.batch, job.seq_len, dtype=torch.int64)
    model.eval()
    with torch.no_grad():
        model(inputs)
    del inputs
    model.train()
    chunked = {} if job.method == "full" else {"lm_head_chunk_size": CHUNK}
    for counts in (False, True) if job.steady else (True,):
        if counts:
            watcher.ready(inner, optimizer)
        for _ in range(job.accumulation):
            watcher.mark("forward")
            input_ids = torch.zeros(job.batch, job.seq_len, dtype=torch.int64)
            targets = torch.zeros(job.batch, job.seq_len, dtype=torch.int64)
            logits = model(input_ids, **chunked)
            if job.method == "full":
                loss = chunked_cross_entropy(logits[..., :-1, :], targets[..., 1:])
            else:
                logits[-1] = logits[-1][..., :-1, :]
                loss = chunked_cross_entropy(logits, targets[..., 1:])
            scaled = loss / job.accumulation if job.accumulation > 1 else loss
            watcher.mark("backward")
            scaled.backward()
            if job.model_code != "lit-gpt":
                loss = 0.0
            del scaled
            if not job.keep_outputs:
                del logits, loss
            del input_ids
            del targets
        watcher.backward_done(inner)
        watcher.mark("optimizer step")
        optimizer.step()
        watcher.updated(optimizer)
        watcher.mark("zero_grad")
        optimizer.zero_grad()
        watcher.mark("end")


def record(code: str, name: str, job: TrainJob) -> tuple[list[Any], int, int]:
    """Return the events of a job's step, and the bytes of parameters and buffers."""
    from lightning.fabric import wrappers
    from lightning.fabric.plugins.precision.amp import MixedPrecision
    from lightning.fabric.plugins.precision.half import HalfPrecision
    from lightning.fabric.strategies import SingleDeviceStrategy

    utils = import_module("lit_gpt.utils" if code == "lit-gpt" else "litgpt.utils")
    wrappers._in_fabric_backward = True  # fabric.backward is loss.backward, but for fp16
    mixed = job.precision.startswith("amp-")
    precision = MixedPrecision("bf16-mixed", "cpu") if mixed else HalfPrecision("bf16-true")
    tracker = HostScalars()
    watcher = TrackerWatcher(tracker, passes(job))
    with ExitStack() as stack:
        stack.enter_context(collected())
        stack.enter_context(optimizers.as_on_cuda(job))
        stack.enter_context(fake.fake_tensors())
        stack.enter_context(fake.cuda_kernels(job.attention, lambda kernel: None))
        stack.enter_context(tracker)
        with precision.module_init_context():
            inner = build(code, name, job)
        inner = precision.convert_module(inner)
        model = wrappers._FabricModule(inner, SingleDeviceStrategy(torch.device("cpu"), precision=precision))
        fit(model, inner, job, watcher, utils.chunked_cross_entropy)
        stream = _cut(tracker.stream)
        prompts = [each for one in inner.modules() for each in getattr(one, "adapter_kv_cache", None) or ()]
        cached = tracker.rounded_bytes(prompts)
        del model, inner, prompts
    return (
        steps(stream, trace_start(stream), mixed),
        watcher.facts["parameter_bytes"],
        watcher.facts["buffer_bytes"] + cached,
    )


def main() -> None:
    """Record the jobs of one release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code")
    parser.add_argument("path")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--only", default="", help="with --show: a word in the job")
    asked = parser.parse_args()
    sys.path.insert(0, asked.path)
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else []
    kept = [each for each in golden if each["job"]["model_code"] != asked.code]
    for name, job in jobs():
        if job.model_code != asked.code or asked.only not in str(job):
            continue
        events, parameters, buffers = record(asked.code, name, job)
        kept.append({"model": name, "job": told(job), **summary(events, parameters, buffers)})
        if asked.show:
            played = play(model_from_config(MODELS[name][0]), job, on="trace")
            stream = played.recorder.stream()
            stream.events = stream.events[: played.end]
            ours = steps(stream, played.start, job.precision.startswith("amp-"))
            own = summary(ours, played.kept("parameter", played.start), played.kept("buffer"))
            print(
                name,
                job.model_code,
                job.method,
                first_difference(ours, events) or "equal",
                own == summary(events, parameters, buffers),
                own,
            )
    if not asked.show:
        GOLDEN.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
