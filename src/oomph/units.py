"""Bytes are integers everywhere; this file is where people's words become bytes and bytes become words.

GiB is 2^30 bytes, GB is 10^9. Nothing in oomph adds one to the other: sizes are bytes until they are printed.
"""

from __future__ import annotations

import re

from oomph.errors import UsageError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12

_UNITS = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB, "kb": KB, "mb": MB, "gb": GB, "tb": TB}
_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([kmgt]?i?b)\s*", re.IGNORECASE)


def looks_like_size(text: str) -> bool:
    """Tell whether `text` is a number with a byte unit, such as 24GiB."""
    return _SIZE.fullmatch(text) is not None


def parse_size(text: str) -> int:
    """Return the bytes in a size with a unit.

    >>> parse_size("24GiB"), parse_size("24 GB")
    (25769803776, 24000000000)
    """
    found = _SIZE.fullmatch(text)
    if found is None or found[2].lower() not in _UNITS:
        raise UsageError(f"{text!r} is not a size.", "Write a number and a unit, such as 24GiB or 80GB.")
    return _scaled(found[1], _UNITS[found[2].lower()])


def _scaled(number: str, unit: int) -> int:
    """Return a decimal number times a unit, exactly and rounded down: no float comes near a byte count."""
    whole, _, digits = number.partition(".")
    return int(whole + digits) * unit // int(10 ** len(digits))


def gib(n_bytes: int, digits: int = 2) -> str:
    """Return bytes as GiB (2^30).

    >>> gib(2**30 * 3 // 2)
    '1.50 GiB'
    """
    return f"{n_bytes / GIB:,.{digits}f} GiB"


def human(n_bytes: int) -> str:
    """Return bytes in the binary unit that reads best.

    >>> human(512), human(3 * 2**20), human(16060522496)
    ('512 B', '3.00 MiB', '14.96 GiB')
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(n_bytes) >= unit:
            return f"{n_bytes / unit:,.2f} {name}"
    return f"{n_bytes} B"


def count(n: int) -> str:
    """Return a number of parameters the way people say it.

    >>> count(8030261248), count(124439808), count(671026404352)
    ('8.03B', '124.44M', '671.03B')
    """
    for unit, name in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= unit:
            return f"{n / unit:.2f}{name}"
    return str(n)


_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([km]?)", re.IGNORECASE)


def parse_amount(text: str) -> int:
    """Return a number of tokens or requests as people write it; k and m are powers of two, as contexts are.

    >>> parse_amount("32k"), parse_amount("1M"), parse_amount("8,192"), parse_amount("1.5k")
    (32768, 1048576, 8192, 1536)
    """
    found = _AMOUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    unit = {"": 1, "k": KIB, "m": MIB}[found[2].lower()] if found else 0
    if found is None or (not unit - 1 and "." in found[1]):
        raise UsageError(f"{text[:40]!r} is not a whole number.", "Write 8192, 8k or 1m; k is 1024.")
    return _scaled(found[1], unit)


_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(?:e(\d{1,2})|([kmbt]))?", re.IGNORECASE)
_POWERS = {"k": 3, "m": 6, "b": 9, "t": 12}


def parse_count(text: str) -> int:
    """Return a number of parameters as people write it.

    >>> parse_count("104e9"), parse_count("7.5B"), parse_count("124439808")
    (104000000000, 7500000000, 124439808)
    """
    found = _COUNT.fullmatch(text.strip().replace("_", "").replace(",", ""))
    power = 0 if found is None else int(found[2] or _POWERS.get((found[3] or "").lower(), 0))
    value = 0 if found is None else _scaled(found[1], 10**power)
    if not 0 < value < 10**18:
        raise UsageError(f"{text[:40]!r} is not a number of parameters.", "Write 104e9, 70B or 7000000000.")
    return value
