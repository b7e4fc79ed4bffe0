"""Record what a real llama.cpp's --fit makes of tiny models on pretended GPUs: tests/engines/llamacpp/fit_golden.json.

    pip install xllamacpp gguf && python scripts/record_llamacpp_fit.py

A row for each case of tests/engines/llamacpp/fits.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.engines.llamacpp import pretended, tiny
from tests.engines.llamacpp.fits import CASES, GOLDEN, STORED, config, with_draft


def main() -> None:
    """Fit every case and write what was found."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        for name, (_, _, free, target, least, asked) in CASES.items():
            tiny.write(path, config(name), STORED)
            found[name] = pretended.fit(path, free, target, least, **with_draft(asked, Path(folder)))
            print(name, found[name], flush=True)
    made = f"xllamacpp {version('xllamacpp')} on pretended GPUs; scripts/record_llamacpp_fit.py"
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
    GOLDEN.write_text(f'{{"made_with": {json.dumps(made)}, "fits": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main()
