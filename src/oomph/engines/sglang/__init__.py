"""SGLang: weights and pools of caches take a fixed share of each device, activations and CUDA graphs the rest.

Source: sglang 0.5.23, and what differs in 0.5.3 to 0.5.22.
"""

from __future__ import annotations

from dataclasses import fields, replace

from oomph.engines.base import Engine
from oomph.engines.flags import spelled
from oomph.engines.sglang.job import SglangJob
from oomph.engines.sglang.serve import deploy
from oomph.engines.sglang.words import HARMLESS, REFUSED

TITLE = "SGLang"
STARTS = (
    ("python", "-m", "sglang.launch_server"),
    ("python3", "-m", "sglang.launch_server"),
    ("sglang", "serve"),
    ("docker", "lmsysorg/sglang"),
)


def command(model: str, job: SglangJob) -> list[str]:
    """Return the words that launch a server for a job."""
    said, job = SglangJob(), replace(job, context_length=job.context_length or job.context)
    words = ["python", "-m", "sglang.launch_server", "--model-path", model]
    for each in fields(job):
        if each.metadata.get("flags") and getattr(job, each.name) != getattr(said, each.name):
            words += spelled(ENGINE, each.name, getattr(job, each.name))
    return words


ENGINE = Engine(
    "sglang",
    TITLE,
    "sglang 0.5.23: srt/arg_groups/memory_hook.py, srt/mem_cache/kv_cache_configurator.py",
    SglangJob,
    STARTS,
    deploy,
    command,
    models=("--model-path", "--model"),
    harmless=HARMLESS,
    refused=REFUSED,
    formats=("bf16", "fp8", "awq"),
    hub=True,
    vendors=("nvidia", "amd"),
)
