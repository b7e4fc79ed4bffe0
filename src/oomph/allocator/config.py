"""The settings of torch's CUDA caching allocator, as PYTORCH_CUDA_ALLOC_CONF spells them.

Source: c10/core/AllocatorConfig.cpp and c10/cuda/CUDAAllocatorConfig.h of torch 2.13. Where torch would take a value by
accident ("-1" and "20x" pass its number parser) oomph refuses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.units import GIB, MIB

MIN_BLOCK_BYTES = 512  # kMinBlockSize: every block is a multiple of it
SMALL_BYTES = MIB  # kSmallSize: the largest request of the small pool
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer: the small pool's segments, and its page when segments expand
LARGE_SEGMENT_BYTES = 20 * MIB  # large_segment_size: segments for requests below kMinLargeAlloc, and the large page
MIN_LARGE_BYTES = 10 * MIB  # kMinLargeAlloc: from here on a segment is made to measure
ROUND_LARGE_BYTES = 2 * MIB  # kRoundLarge: and rounded up to this

DIVISION_INTERVALS = 16  # kRoundUpPowerOfTwoIntervals: one per power of two from 1 MiB to 32 GiB and above
FIRST_INTERVAL_BIT = MIB.bit_length() - 1
MAX_SETTING_LENGTH = 4096
MAX_MIB = 64 * GIB // MIB * 2**10  # 64 TiB in MiB: no device comes near
SHOWN = 60  # characters of a wrong setting repeated in a message

_SETTING = re.compile(r"([A-Za-z_0-9]+):(\[[^\[\]]*\]|[^,:\[\]]+)(?:,|$)")
_WHOLE = re.compile(r"\d{1,12}", re.ASCII)
_DECIMAL = re.compile(r"\d{0,3}(?:\.\d{1,17})?", re.ASCII)

_IGNORED = frozenset(
    {  # settings of the host's pinned memory and of locks and graphs: they move no block of the default pools
        "pinned_use_background_threads",
        "pinned_max_round_threshold_mb",
        "pinned_max_cached_size_mb",
        "pinned_reserve_segment_size_mb",
        "pinned_num_register_threads",
        "pinned_free_catch_all",
        "pinned_use_cuda_host_register",
        "pinned_use_hip_host_register",
        "release_lock_on_cudamalloc",
        "release_lock_on_hipmalloc",
        "graph_capture_record_stream_reuse",
    }
)


@dataclass(frozen=True)
class Config:
    """How the allocator is set up; the defaults are torch's.

    `by_address` is no setting but torch up to 2.12, whose free blocks of one size go by address and not by age.
    `max_split_bytes` None splits blocks of any size. `roundup_power2_divisions` holds one number per power of two of
    the request (index 0: below 2 MiB, 1: 2 MiB up to 4 MiB, ... 15: from 32 GiB on); 0 and 1 round to 512 B only.

    >>> Config.parse("expandable_segments:True,max_split_size_mb:128").max_split_bytes
    134217728
    """

    expandable_segments: bool = False
    max_split_bytes: int | None = None
    max_non_split_rounding_bytes: int = LARGE_SEGMENT_BYTES
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = (0,) * DIVISION_INTERVALS
    large_segment_bytes: int = LARGE_SEGMENT_BYTES
    per_process_memory_fraction: float = 1.0
    throw_on_cudamalloc_oom: bool = False
    by_address: bool = False

    @classmethod
    def parse(cls, text: str) -> Config:
        """Return the settings in a PYTORCH_CUDA_ALLOC_CONF string; later settings win, white space is ignored.

        >>> Config.parse("roundup_power2_divisions:[256:1,512:2,1024:4,>:8]").roundup_power2_divisions
        (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8)
        """
        if len(text) > MAX_SETTING_LENGTH:
            raise UsageError(f"Allocator settings of {len(text)} characters are not plausible.", _HOW)
        squeezed = "".join(text.split())
        config, position = cls(), 0
        while position < len(squeezed):
            found = _SETTING.match(squeezed, position)
            if found is None:
                raise UsageError(f"Allocator settings cannot be read from {squeezed[position:][:SHOWN]!r} on.", _HOW)
            config = _with_setting(config, found[1], found[2])
            position = found.end()
        return config

    def rounded(self, n_bytes: int) -> int:
        """Return the size of the block that a request asks for (torch's round_size).

        >>> Config().rounded(1), Config().rounded(513)
        (512, 1024)
        >>> Config.parse("roundup_power2_divisions:4").rounded(1200 * 2**20) // 2**20
        1280
        """
        if n_bytes < MIN_BLOCK_BYTES:
            return MIN_BLOCK_BYTES
        bit = n_bytes.bit_length() - 1
        interval = min(max(bit - FIRST_INTERVAL_BIT, 0), DIVISION_INTERVALS - 1)
        divisions = self.roundup_power2_divisions[interval]
        if divisions > 1 and n_bytes > MIN_BLOCK_BYTES * divisions:
            step = (1 << bit) // divisions
            return -(-n_bytes // step) * step
        return -(-n_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES

    def segment_bytes(self, size: int) -> int:
        """Return what is asked of cudaMalloc when no cached block holds `size` bytes (torch's get_allocation_size).

        >>> [Config().segment_bytes(n * 2**20) // 2**20 for n in (1, 2, 9, 10, 11)]
        [2, 20, 20, 10, 12]
        """
        if size <= SMALL_BYTES:
            return SMALL_SEGMENT_BYTES
        if size < MIN_LARGE_BYTES:
            return self.large_segment_bytes
        return -(-size // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES

    @property
    def has_divisions(self) -> bool:
        """Whether any request is rounded to more than 512 B."""
        return any(divisions > 1 for divisions in self.roundup_power2_divisions)


_HOW = "Write them as torch reads them: expandable_segments:True,max_split_size_mb:128"


def _with_setting(config: Config, key: str, value: str) -> Config:
    """Return the config with one setting of the string applied."""
    if key == "expandable_segments":
        return replace(config, expandable_segments=_bool(key, value))
    if key == "throw_on_cudamalloc_oom":
        return replace(config, throw_on_cudamalloc_oom=_bool(key, value))
    if key == "max_split_size_mb":
        return replace(config, max_split_bytes=_mib(key, value, config.large_segment_bytes // MIB))
    if key == "max_non_split_rounding_mb":
        return replace(config, max_non_split_rounding_bytes=_mib(key, value, config.large_segment_bytes // MIB))
    if key == "large_segment_size_mb":
        return replace(config, large_segment_bytes=_mib(key, value, MIN_LARGE_BYTES // MIB + 1))
    if key == "garbage_collection_threshold":
        threshold = _fraction(key, value)
        if not 0 < threshold < 1:
            raise UsageError(f"{key}:{value[:SHOWN]} is outside 0 to 1.", "Write a share such as 0.8.")
        return replace(config, garbage_collection_threshold=threshold)
    if key == "per_process_memory_fraction":
        return replace(config, per_process_memory_fraction=_fraction(key, value))
    if key == "roundup_power2_divisions":
        return replace(config, roundup_power2_divisions=_divisions(value))
    return _without_effect(config, key, value)


def _without_effect(config: Config, key: str, value: str) -> Config:
    """Return the config unchanged for a setting that moves no block; refuse what is unknown or not modelled."""
    if key == "backend":
        if value == "cudaMallocAsync":
            raise UnsupportedError(
                "backend:cudaMallocAsync is the driver's own allocator, which oomph does not model.",
                "Leave the backend at native to have reserved memory estimated.",
            )
        if value != "native":
            raise UsageError(f"{value[:SHOWN]!r} is not an allocator backend.", "torch has native and cudaMallocAsync.")
    elif key not in _IGNORED:
        hint = close_matches(key[:SHOWN], _KNOWN) or "Known are " + ", ".join(_KNOWN) + "."
        raise UsageError(f"{key[:SHOWN]!r} is not an allocator setting of torch.", hint)
    return config


_KNOWN = (
    "expandable_segments",
    "max_split_size_mb",
    "max_non_split_rounding_mb",
    "large_segment_size_mb",
    "garbage_collection_threshold",
    "roundup_power2_divisions",
    "per_process_memory_fraction",
    "throw_on_cudamalloc_oom",
    "backend",
)


def _bool(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise UsageError(f"{key}:{value[:SHOWN]} is neither True nor False.", "torch takes exactly these two words.")
    return value == "True"


def _whole(key: str, value: str) -> int:
    if _WHOLE.fullmatch(value) is None:
        raise UsageError(f"{key}:{value[:SHOWN]} is not a whole number.", "Write digits only.")
    return int(value)


def _mib(key: str, value: str, least: int) -> int:
    """Return a number of MiB (torch writes mb) as bytes."""
    n_mib = _whole(key, value)
    if not least <= n_mib <= MAX_MIB:
        raise UsageError(f"{key}:{value} is outside {least} to {MAX_MIB}.", f"torch takes {least} MiB and more.")
    return n_mib * MIB


def _fraction(key: str, value: str) -> float:
    number = float(value) if value and value != "." and _DECIMAL.fullmatch(value) else -1.0
    if not 0 <= number <= 1:
        raise UsageError(f"{key}:{value[:SHOWN]} is not a share between 0 and 1.", "Write a share such as 0.8.")
    return number


def _divisions(value: str) -> tuple[int, ...]:
    """Return the divisions per power of two, from `4` or from `[256:1,512:2,>:8]`.

    The first interval of a list also sets all below it; `>` sets all above the last one named.
    """
    if not value.startswith("["):
        divisions = _whole("roundup_power2_divisions", value)
        _power_of_two("roundup_power2_divisions", divisions)
        return (divisions,) * DIVISION_INTERVALS
    result = [0] * DIVISION_INTERVALS
    last, first = 0, True
    for pair in filter(None, value[1:-1].split(",")):
        boundary, _, count = pair.partition(":")
        divisions = _whole("roundup_power2_divisions", count)
        if divisions:
            _power_of_two("The divisions", divisions)
        if boundary == ">":
            result[last + 1 :] = [divisions] * (DIVISION_INTERVALS - last - 1)
            continue
        n_mib = _whole("roundup_power2_divisions", boundary)
        _power_of_two("The interval", n_mib)
        last = min(n_mib.bit_length() - 1, DIVISION_INTERVALS - 1)
        if first:
            result[:last], first = [divisions] * last, False
        result[last] = divisions
    return tuple(result)


def _power_of_two(what: str, number: int) -> None:
    if number < 1 or number & (number - 1):
        raise UsageError(f"{what} {number} is not a power of two.", "Write 1, 2, 4, 8 ...")
