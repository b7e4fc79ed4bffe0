"""llama.cpp: weights as a GGUF file has them, layers on GPUs or with the host, a cache of cells taken at the start.

Everything is taken when the server starts, for as many tokens as it is told. Source: llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oomph.engines.base import Deployment, Engine
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.other_flags import HARMLESS, MODELS, REFUSED

GGUF = ("gguf-bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device


def _deploy(found: Subject, job: LlamaCppJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return the model in llama.cpp's server; raises UnsupportedError for what is not modelled."""
    from oomph.engines.llamacpp.deploy import deploy as deployed

    return deployed(found, job, devices)


def command(model: str, job: LlamaCppJob) -> list[str]:
    """Return the words that serve a model so: flags that are not as the server takes them anyway.

    >>> command("llama.gguf", LlamaCppJob(context=4096, concurrency=8, gpu_layers=20))
    ['llama-server', '-m', 'llama.gguf', '-c', '32768', '-np', '8', '-kvu', '-ngl', '20']
    """
    from oomph.engines.llamacpp.words import words

    return ["llama-server", "-m", model, *words(job)]


ENGINE = Engine(
    name="llama.cpp",
    title="llama.cpp",
    source="llama.cpp 0c1e57098 (November 2026)",
    job=LlamaCppJob,
    starts=(
        ("llama-server",),
        ("llama", "serve"),
        ("docker", "ghcr.io/ggml-org/llama.cpp"),
        ("docker", "ghcr.io/ggerganov/llama.cpp"),
    ),
    deploy=_deploy,
    command=command,
    models=MODELS,
    harmless=HARMLESS,
    refused=REFUSED,
    formats=GGUF,
)
