"""What of a GPU moves the profile: its multiprocessors, its second-level cache, and cuBLAS's workspaces on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.constants import rule
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.devices import Device

# Multiprocessors and MiB of second-level cache by compute capability: of the card most served on, and of the largest.
# Source: NVIDIA's architecture papers; 7.5 T4, Quadro RTX 8000; 8.0 A100; 8.6 RTX 3090, A40; 8.9 L40S; 9.0 H100 SXM,
# GH200; 10.0 B200; 12.0 RTX 5090, RTX PRO 6000; 12.1 GB10.
SIZES = {
    "7.0": ((80, 6), (80, 6)),
    "7.5": ((40, 4), (72, 6)),
    "8.0": ((108, 40), (108, 40)),
    "8.6": ((82, 6), (84, 6)),
    "8.9": ((142, 96), (142, 96)),
    "9.0": ((132, 50), (132, 60)),
    "10.0": ((148, 126), (160, 126)),
    "10.3": ((148, 126), (160, 126)),
    "12.0": ((170, 96), (188, 128)),
    "12.1": ((48, 24), (48, 24)),
}
UNKNOWN = "9.0"  # stands for a card of which nothing is known; the most of all bounds it


@dataclass(frozen=True)
class Card:
    """Numbers of a card. `lt_bytes` is cuBLASLt's workspace, for products with a bias."""

    multiprocessors: int
    cache_bytes: int
    cublas_bytes: int
    lt_bytes: int
    capability: tuple[int, int] | None


def card(device: Device | None) -> Card:
    """Return what a device is likely to be; of one that is not known, an H100.

    >>> from oomph.devices import find
    >>> card(find("h100")).multiprocessors, card(find("h100")).cublas_bytes // MIB
    (132, 32)
    """
    capability = device.compute_capability if device else ""
    processors, cache = SIZES.get(capability, SIZES[UNKNOWN])[0]
    cublas, lt = rule("cublas_workspace", device), rule("cublaslt_workspace", device)
    return Card(processors, cache * MIB, cublas.n_bytes, lt.n_bytes, device.capability if device else None)


def largest(device: Device | None) -> Card:
    """Return the most that a device can be.

    >>> largest(None).multiprocessors
    188
    """
    capability = device.compute_capability if device else ""
    known = [SIZES[capability]] if capability in SIZES else list(SIZES.values())
    processors, cache = (max(most[i] for _, most in known) for i in range(2))
    cublas, lt = rule("cublas_workspace", device), rule("cublaslt_workspace", device)
    return Card(processors, cache * MIB, cublas.high, lt.high, device.capability if device else None)
