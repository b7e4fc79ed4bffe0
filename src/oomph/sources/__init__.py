"""Where a model comes from. The only folder that touches disk or network.

`load` takes what a user may write: a catalogue name, a path, `-`, a repository of the Hugging Face hub.
"""

from __future__ import annotations

import os
import sys

from oomph.errors import SourceError, UsageError
from oomph.header import Source

STDIN = "-"
MAX_REF = 4096
_SUFFIXES = (".json", ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def load(ref: str, *, offline: bool = False, timeout: float | None = None) -> Source:
    """Return the model that `ref` means; `timeout` is for one request to the hub, in seconds.

    An existing path wins over a catalogue name, a catalogue name over the hub. `org/name@main` always means the hub.
    """
    ref = ref.strip() if isinstance(ref, str) else ""
    if not ref or len(ref) > MAX_REF or "\0" in ref:
        raise UsageError("That is not a model.", "Give a catalogue name, a path, or a repository such as org/name.")
    if ref == STDIN:
        return _stdin()
    from oomph.sources import catalogue

    known = catalogue.find(ref)
    place = os.path.expanduser(ref)  # `~` is the home folder; ~nobody, who is no user, stays as it is
    if os.path.exists(place):
        from pathlib import Path  # 6 ms that a catalogue name need not pay

        from oomph.sources import local

        path = Path(place)
        if known is None or local.has_model(path):
            return local.load(path)
    if known is not None:
        return known
    if _looks_like_path(ref):
        raise SourceError(f"There is no file or folder {ref[:200]}.", "Check the path.")
    from oomph.sources import hub

    found = hub.parse_ref(ref)
    if found is not None:
        return hub.load(found, offline=offline, timeout=timeout)
    if "/" in ref:
        raise SourceError(f"There is no file or folder {ref[:200]}.", "A repository of the hub is written org/name.")
    raise UsageError(
        f"There is no model {ref[:80]!r} in the catalogue.",
        f"{catalogue.suggest(ref)} A repository of the hub is written org/name, a folder ./name.".strip(),
    )


def _stdin() -> Source:
    from oomph.sources.json_text import read_stream

    if sys.stdin is None:
        raise SourceError("There is no standard input.", "Pipe a config into it: cat config.json | oomph -")
    return Source("stdin", "stdin", read_stream(sys.stdin.buffer, "stdin"))


def _looks_like_path(ref: str) -> bool:
    """Tell whether a reference can only be meant as a path.

    >>> _looks_like_path("./llama"), _looks_like_path("org/name"), _looks_like_path("org/name:x.gguf")
    (True, False, False)
    """
    if ref.startswith(("./", "../", "/", "~", ".\\", "..\\")) or ref in (".", "..") or os.path.isabs(ref):
        return True
    return ref.lower().endswith(_SUFFIXES) and ":" not in ref
