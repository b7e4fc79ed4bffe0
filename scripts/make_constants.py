"""Make the CUDA contexts of src/oomph/data/constants.json from scripts/facts/contexts.csv.

    python scripts/make_constants.py           write them
    python scripts/make_constants.py --check   exit 1 if they are not what the facts give

A line has either the figures of one out-of-memory message of torch (what the process holds, of that what torch
allocated and what it reserved beside: the rest is the context) or what a source says by itself (low_mib, high_mib).
Taken are messages whose thread names the GPU, of one process on one GPU under Linux, with less than 1 GiB beside torch:
more comes from other GPU libraries in the process. `loading` is how CUDA loads kernels: lazy since CUDA 11.7 and torch
1.13, before that all at once. The other entries of the file are written by hand.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from oomph.devices import find
from oomph.units import GIB, MIB

ROOT = Path(__file__).parents[1]
FACTS = ROOT / "scripts" / "facts" / "contexts.csv"
JSON = ROOT / "src" / "oomph" / "data" / "constants.json"


def held_beside_torch(row: dict[str, str]) -> tuple[int, int]:
    """Return the least and most bytes a line speaks of."""
    if row["process_gib"]:
        gib = float(row["process_gib"]) - float(row["allocated_gib"])
        n_bytes = round(gib * GIB - float(row["unallocated_mib"]) * MIB)
        return n_bytes, n_bytes
    return round(float(row["low_mib"]) * MIB), round(float(row["high_mib"]) * MIB)


def seen() -> list[dict[str, Any]]:
    """Return what was seen, as constants.json has it."""
    rows = []
    with FACTS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            low, high = held_beside_torch(row)
            if not 0 < low <= high:
                raise SystemExit(f"{row['device']}: {low} to {high} bytes cannot be right ({row['source']}).")
            where = {"device": row["device"], "compute_capability": find(row["device"]).compute_capability}
            how = f"{row['source']} ({row['note']})" if row["note"] else row["source"]
            rows.append(
                {**where, "loading": row["loading"], "low": low, "high": high, "n": int(row["n"]), "source": how}
            )
    return rows


def main(check: bool) -> int:
    """Write the file, or with `check` say whether it is what the facts give; return the exit status."""
    constants = json.loads(JSON.read_text(encoding="utf-8"))
    constants["cuda_context"]["seen"] = seen()
    text = json.dumps(constants, indent=2, ensure_ascii=False) + "\n"
    if not check:
        JSON.write_text(text, encoding="utf-8")
    elif text != JSON.read_text(encoding="utf-8"):
        print(f"{JSON.name} is not what the facts give: run python scripts/make_constants.py.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
