"""Write docs/ledger.schema.json from the ledger's own classes. `--check` fails if the committed file differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from oomph.ledger import GROUPS, SCHEMA_VERSION, SOURCES

TARGET = Path(__file__).parents[1] / "docs" / "ledger.schema.json"

BYTES = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with all these keys; more may come in a minor version."""
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def null_or(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def schema() -> dict[str, Any]:
    """The JSON schema of `oomph MODEL --json`."""
    item = obj(
        {
            "name": {**TEXT, "description": "dotted path of the tensor; * stands for every index in axes"},
            "group": {"enum": list(GROUPS)},
            "kind": {**TEXT, "description": "kind of block: attention, mlp, moe_experts, vision ..."},
            "axes": array({"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "minItems": 2, "maxItems": 2}),
            "dtype": TEXT,
            "bytes": BYTES,
            "safe_bytes": BYTES,
            "device": TEXT,
            "instants": array(TEXT),
            "source": {"enum": list(SOURCES)},
            "evidence": TEXT,
        }
    )
    alternative = obj(
        {
            "format": TEXT,
            "title": TEXT,
            "total_bytes": null_or(BYTES),
            "safe_bytes": null_or(BYTES),
            "largest_layer_bytes": null_or(BYTES),
            "fits": null_or({"type": "boolean"}),
            "reason": TEXT,
        }
    )
    verdict = obj(
        {
            "status": {"enum": ["fits", "tight", "too_big"]},
            "fits": {"type": "boolean"},
            "capacity_bytes": BYTES,
            "margin_bytes": {"type": "integer"},
            "sentence": TEXT,
        }
    )
    counts = (
        "params",
        "active_params",
        "embedding_params",
        "head_params",
        "mtp_params",
        "hidden_size",
        "num_layers",
        "vocab_size",
    )
    model = obj(
        {
            "name": TEXT,
            "model_type": TEXT,
            **dict.fromkeys(counts, BYTES),
            "tied": {"type": "boolean"},
            "by_kind": {"type": "object", "additionalProperties": BYTES},
            "context_length": null_or(BYTES),
            "stored_dtype": null_or(TEXT),
            "stored_bytes": null_or(BYTES),
            "counted_by": {"enum": ["config", "class", "header"]},
        }
    )
    job = obj(
        {"kind": {"enum": ["weigh", "train", "serve"]}, "model": TEXT, "origin": TEXT, "format": TEXT},
        description="for train and serve also every input of the job with its value",
    )
    figure = obj(
        {
            "name": {"enum": ["allocated", "reserved", "device"]},
            "bytes": BYTES,
            "safe_bytes": BYTES,
        }
    )
    instant = obj(
        {
            "name": TEXT,
            "repeats": {"type": "integer", "minimum": 1},
            "start_bytes": BYTES,
            "peak_bytes": BYTES,
            "end_bytes": BYTES,
        }
    )
    whole = obj(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "oomph_version": TEXT,
            "job": job,
            "model": model,
            "device": null_or({"type": "object"}),
            "verdict": null_or(verdict),
            "total_bytes": BYTES,
            "safe_bytes": BYTES,
            "figures": array(figure),
            "resident_bytes": null_or(BYTES),
            "instants": array(instant),
            "peak": {**null_or(TEXT), "description": "the instant at which most is allocated"},
            "why": TEXT,
            "groups": obj(dict.fromkeys(GROUPS, BYTES)),
            "kinds": {"type": "object", "additionalProperties": BYTES},
            "items": array(item),
            "not_loaded": array(item),
            "alternatives": array(alternative),
            "assumptions": array(TEXT),
            "warnings": array(TEXT),
        }
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "oomph ledger",
        "description": "Bytes are integers. A new key is a minor version, a changed meaning a major one.",
        **whole,
    }


def main() -> None:
    text = json.dumps(schema(), indent=2) + "\n"
    if "--check" in sys.argv:
        if not TARGET.is_file() or TARGET.read_text() != text:
            sys.exit(f"{TARGET.name} is out of date: run python scripts/make_schema.py")
        return
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
