"""Engines that give a share of what is free after loading to a pool of blocks: what they have in common.

Weights, the CUDA context and a step's activations first; of the rest a share becomes blocks of tokens, all of them at
the start. What a step's activations take is known between two bounds only (shards.step_bytes), so the pool is too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from oomph.blocks.cached import TokenCache
from oomph.caches import layer_caches
from oomph.constants import measured
from oomph.engines.base import Amount, Limit, Share
from oomph.engines.shards import KEPT
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.model import Model

ASIDE = "left alone"


@dataclass(frozen=True)
class Block:
    """A block of `tokens` tokens of `token_bytes` bytes on one device."""

    tokens: int
    token_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of a block."""
        return self.tokens * self.token_bytes

    def needs(self, context: Amount, concurrency: Amount) -> Amount:
        """Return the bytes of whole blocks that requests take."""
        return concurrency * (-(-context // self.tokens)) * self.n_bytes

    def held(self, context: int, concurrency: int) -> tuple[Item, ...]:
        """Return the same as an item."""
        axes = (("requests", concurrency), ("tokens", context))
        each = f"{self.token_bytes:,} B per token, in blocks of {self.tokens}"
        return (Item("keys and values", "kv_cache", self.needs(context, concurrency), axes=axes, evidence=each),)


@lru_cache(maxsize=KEPT)
def token_caches(model: Model, engine: str, latent: bool) -> tuple[tuple[TokenCache, int], ...]:
    """Return what layers keep of a token with the number of such layers; windows are kept whole by these engines.

    Raises UnsupportedError for what an engine's pool of blocks is not known to hold. `latent`: it holds such vectors.
    """
    found = []
    for each in layer_caches(model):
        for kept in each.cached:
            if not isinstance(kept, TokenCache):
                raise UnsupportedError(
                    f"{engine}'s states of recurrent layers are not modelled.", "Ask for another engine."
                )
            if kept.kind != "attention" and not (latent and kept.kind == "latent"):
                raise UnsupportedError(
                    f"A cache of kind {kept.kind} is not modelled in {engine}.", "Ask for another engine."
                )
            if kept.index_dim:
                raise UnsupportedError(f"{engine}'s pools of attention that picks its keys are not modelled.")
            found.append((kept, len(each.layers)))
    if not found:
        raise UnsupportedError(f"{engine}'s pool of a model that keeps no tokens is not modelled.")
    return tuple(found)


def beside(device: Device, ranks: int) -> tuple[Item, ...]:
    """Return what a process holds beside its tensors: the CUDA context, and NCCL where there are several."""
    names = ("cuda_context", "nccl") if ranks > 1 else ("cuda_context",)
    found = [measured(name, device) for name in names]
    return tuple(
        Item(name, "runtime", each.n_bytes, safe=each.high, source=each.source, evidence=each.evidence)
        for name, each in zip(("CUDA context", "NCCL"), found, strict=False)
    )


def check_devices(devices: Sequence[Device], ranks: int, engine: str, flag: str) -> None:
    """Raise UsageError for a number of devices that a job does not take."""
    if devices and len(devices) != ranks:
        raise UsageError(
            f"{engine}'s flags ask for {counted(ranks)}, and there are {len(devices)}.",
            f"Say {flag} {len(devices)}, or name {counted(ranks)}.",
        )
    if len({device.id for device in devices}) > 1:
        raise UsageError(f"{engine} on devices of several kinds is not modelled.", "Name equal devices.")


def taken_for_granted(model: Model, engine: str) -> str:
    """Return what is said with every answer: which architectures an engine runs was not read in its source."""
    return f"{engine} is taken to run {model.model_type} with kernels of its own; whether it does was not looked at"


def counted(devices: int) -> str:
    """Return so many devices in words."""
    return "1 device" if devices == 1 else f"{devices:,} devices"


def longest_of(model: Model, said: int | None, longest: int, flag: str) -> Limit:
    """Return the longest request that is served: a flag's, else what the config allows."""
    if said is not None:
        return Limit(said, f"{flag} {said}")
    return Limit(model.context_length or longest, "what the config allows")


def share_of(device: Device, count: int, items: Sequence[Item], block: Block, blocks: int) -> Share:
    """Return what one device holds: items, a pool of blocks, and what is left alone beside them."""
    room = max(0, blocks) * block.n_bytes
    aside = device.capacity_bytes - sum(item.n_bytes for item in items) - room
    room += min(0, aside)  # what is too large already leaves less than nothing
    left = Item(ASIDE, "runtime", max(0, aside), source="rule", evidence="the engine's share is below 1")
    return Share(
        device.name, (*items, left), block.needs, block.held, room, device.capacity_bytes, pool=True, count=count
    )


def share_unknown(count: int, items: Sequence[Item], block: Block) -> Share:
    """Return what a device that is not known holds: items, and what requests need."""
    return Share("GPU", tuple(items), block.needs, block.held, count=count)


def taken(items: Sequence[Item]) -> tuple[int, int]:
    """Return the bytes of items, at the point and at most."""
    return sum(item.n_bytes for item in items), sum(item.safe_bytes for item in items)
