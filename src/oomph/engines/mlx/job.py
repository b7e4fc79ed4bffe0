"""What mlx-lm is asked for, what of it is refused, and which release is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.engines.base import ServeJob, flag
from oomph.engines.checks import typed
from oomph.engines.mlx.caches import STEP
from oomph.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from oomph.devices import Device

KV_BITS = (2, 3, 4, 5, 6, 8)
REFUSED = {
    "--max-kv-size": "which models mlx-lm turns their caches round for is not known",
    "--draft-model": "a second model beside the first",
    "--adapter-path": "adapters beside the weights",
    "--pipeline": "several machines",
    "--quantize-activations": "copies of the activations",
    "-qa": "copies of the activations",
}
HARMLESS = frozenset({
    "--host=", "--port=", "--log-level=", "--temp=", "--top-p=", "--top-k=", "--min-p=", "--max-tokens=", "-m=",
    "--seed=", "--prompt=", "-p=", "--chat-template=", "--chat-template-args=", "--use-default-chat-template",
    "--trust-remote-code", "--allowed-origins=", "--verbose=", "--num-draft-tokens=", "--ignore-chat-template",
    "--system-prompt=", "--generation-tokens=", "-g=", "--num-trials=", "-n=", "--delay=", "--extra-eos-token=+",
    "--xtc-probability=", "--xtc-threshold=", "--min-tokens-to-keep=", "--prompt-cache-bytes=",
})  # fmt: skip


@dataclass(frozen=True)
class MlxJob(ServeJob):
    """What mlx_lm.server and mlx_lm.generate are asked for. `prompt`: tokens of the context that are read at the start,
    None all but the last. `wired_limit_mb`: what `sudo sysctl iogpu.wired_limit_mb` was set to, None Metal's own."""

    prompt: int | None = flag(None, "--prompt-tokens", help="tokens of the context that are the prompt")
    prefill_step_size: int = flag(2048, "--prefill-step-size", help="tokens of a prompt that are read at once")
    kv_bits: int | None = flag(None, "--kv-bits", help="bits of keys and values")
    kv_group_size: int = flag(64, "--kv-group-size", help="keys and values per scale and bias")
    quantized_kv_start: int = flag(5000, "--quantized-kv-start", help="tokens from which on they are quantised")
    decode_concurrency: int = flag(32, "--decode-concurrency", help="requests that are written at a time")
    prompt_concurrency: int = flag(8, "--prompt-concurrency", help="requests that are read at a time")
    prompt_cache_size: int = flag(10, "--prompt-cache-size", help="conversations whose caches the server keeps")
    wired_limit_mb: int | None = flag(None, "iogpu.wired_limit_mb", help="MiB that macOS lets the GPU have")

    def __post_init__(self) -> None:
        """Refuse values of another type, or of no machine."""
        typed(self)


# The first releases that read all but the last token of a prompt without logits (pull request 406), and that keep the
# latent of latent attention (839).
WITHOUT_LOGITS, LATENTS = (0, 27, 0), (0, 30, 6)


def release(job: MlxJob) -> tuple[int, ...]:
    """Return the release that is asked about, the newest if none is."""
    if not job.version:
        return LATENTS
    found = _VERSION.fullmatch(job.version)
    if found is None:
        raise UsageError(f"{job.version[:20]!r} is no release of mlx-lm.", "Write its number, as 0.28.2.")
    return tuple(int(each) for each in found.groups(default="0"))


_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def check(job: MlxJob, devices: Sequence[Device]) -> None:
    """Refuse what mlx-lm does not start with, or what is not modelled."""
    if len(devices) > 1:
        raise UnsupportedError("oomph models MLX on one machine.", "Name one device.")
    if devices and devices[0].vendor != "apple":
        raise UnsupportedError(
            f"MLX on a {devices[0].name} is not modelled.", "Name an Apple device, such as m4-max-64gb."
        )
    if job.prefill_step_size < 1 or job.prefill_step_size % STEP:
        raise UnsupportedError(
            f"A --prefill-step-size of {job.prefill_step_size} is not modelled.", f"Choose a multiple of {STEP}."
        )
    if job.kv_bits is not None and job.kv_bits not in KV_BITS:
        raise UsageError(f"MLX has no {job.kv_bits} bits.", f"Choose one of {', '.join(map(str, KV_BITS))}.")
    for name in ("kv_group_size", "decode_concurrency", "prompt_concurrency", "concurrency"):
        if getattr(job, name) < 1:
            raise UsageError(f"{name} is {getattr(job, name)}.", "It is at least 1.")
