"""Write docs/timeline.svg, the example that docs/timeline.md shows. `--check` fails if the committed file differs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import oomph
from oomph.devices import find
from oomph.draw import write
from oomph.job import TrainJob
from oomph.step_timeline import step_timeline
from oomph.steps import step
from oomph.timeline import Timeline

TARGET = Path(__file__).parents[1] / "docs" / "timeline.svg"
JOB = TrainJob(batch=1, seq_len=2048)


def example() -> Timeline:
    """A step of Llama-3-8B with torch's usual AdamW: its peak is the copy that the optimizer's step makes."""
    title = f"llama-3-8b: training step, batch {JOB.batch} x {JOB.seq_len}"
    return step_timeline(step(oomph.load("llama-3-8b"), JOB), title, find("h100").program_bytes)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / TARGET.name
        write(drawn, [example()])
        text = drawn.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.name} is out of date: run python scripts/make_timeline.py")
        return
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
