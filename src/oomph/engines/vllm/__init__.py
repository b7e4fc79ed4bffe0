"""vLLM: weights cut for each device, one pool of blocks for keys and values, all that is requested taken at the start.

What is requested of each device is a share of its memory; what weights and a trial step take of that is left out, the
rest is the pool. Source: vllm/v1/worker/gpu_worker.py of vLLM 0.19.0 and 0.33.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oomph.engines.base import Deployment, Engine
from oomph.engines.vllm.flags import HARMLESS, REFUSED
from oomph.engines.vllm.job import MULTIPLES, VllmJob

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device


def deploy(found: Subject, job: VllmJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return the model on vLLM's devices; raises UnsupportedError for what is not modelled."""
    from oomph.engines.vllm.serving import deployment

    return deployment(found, job, devices)


def command(model: str, job: VllmJob) -> list[str]:
    """Return the words that serve a model so: variables and flags that are not as vLLM takes them anyway.

    >>> command("llama-3-8b", VllmJob(context=4096, tensor_parallel=2))
    ['vllm', 'serve', 'llama-3-8b', '--max-model-len', '4096', '--tensor-parallel-size', '2']
    """
    from oomph.engines.vllm.words import variables, words

    return [*variables(job), "vllm", "serve", model, *words(job)]


ENGINE = Engine(
    name="vllm",
    title="vLLM",
    source="vllm 0.19.0 and 0.33.0",
    job=VllmJob,
    starts=(
        ("vllm", "serve"),
        ("python", "-m", "vllm.entrypoints.openai.api_server"),
        ("python3", "-m", "vllm.entrypoints.openai.api_server"),
        ("docker", "vllm/vllm-openai"),
    ),
    deploy=deploy,
    command=command,
    harmless=HARMLESS,
    refused=REFUSED,
    suffixes=MULTIPLES,
    formats=("bf16", "fp8", "awq"),
    hub=True,
    vendors=("nvidia", "amd"),
)
