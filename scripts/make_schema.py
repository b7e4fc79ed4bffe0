"""Write the schemas of the JSON that commands print. `--check` fails if a committed file differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from oomph.engines.maps import STATUSES as MAP_STATUSES
from oomph.ledger import GROUPS, SCHEMA_VERSION, SOURCES
from oomph.planning.lever import PRICES
from oomph.planning.result import STATUSES

DOCS = Path(__file__).parents[1] / "docs"

BYTES = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
NUMBER = {"type": "number"}


def obj(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object with all these keys; more may come in a minor version."""
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def null_or(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def verdict() -> dict[str, Any]:
    return obj(
        {
            "status": {"enum": ["fits", "tight", "too_big"]},
            "fits": {"type": "boolean"},
            "capacity_bytes": BYTES,
            "margin_bytes": {"type": "integer"},
            "sentence": TEXT,
        }
    )


def figure() -> dict[str, Any]:
    return obj({"name": {"enum": ["allocated", "reserved", "device"]}, "bytes": BYTES, "safe_bytes": BYTES})


def model() -> dict[str, Any]:
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
    return obj(
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


def job() -> dict[str, Any]:
    return obj(
        {"kind": {"enum": ["weigh", "train", "serve"]}, "model": TEXT, "origin": TEXT, "format": TEXT},
        description="for train and serve also every input of the job with its value",
    )


def served() -> dict[str, Any]:
    """What an engine holds on each kind of device, its limits, and single changes where it does not fit."""
    share = obj(
        {
            "name": TEXT,
            "count": {"type": "integer", "minimum": 1},
            **dict.fromkeys(("bytes", "safe_bytes", "needed_bytes"), BYTES),
            **dict.fromkeys(("room_bytes", "safe_room_bytes"), null_or({"type": "integer"})),
            "capacity_bytes": null_or(BYTES),
        },
        description="bytes of one of count equal devices",
    )
    bound = obj({"over": {"enum": ["context", "concurrency"]}, "most": BYTES, "why": TEXT})
    single = obj(
        {
            "title": TEXT,
            "words": {**array(TEXT), "description": "what to type for it"},
            "saved_bytes": {"type": "integer"},
            "margin_bytes": {"type": "integer"},
            "status": {"enum": list(STATUSES)},
        }
    )
    return obj({"shares": array(share), "limits": array(bound), "changes": array(single)})


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
            "job": job(),
            "model": model(),
            "device": null_or({"type": "object"}),
            "verdict": null_or(verdict()),
            "total_bytes": BYTES,
            "safe_bytes": BYTES,
            "figures": array(figure()),
            "resident_bytes": null_or(BYTES),
            "instants": array(instant),
            "peak": {**null_or(TEXT), "description": "the instant at which most is allocated"},
            "why": TEXT,
            "printed": array(obj({"name": TEXT, "text": TEXT, "value": NUMBER, "safe": NUMBER})),
            "command": {**array(TEXT), "description": "what starts the engine, word by word"},
            "served": null_or(served()),
            "groups": obj(dict.fromkeys(GROUPS, BYTES)),
            "kinds": {"type": "object", "additionalProperties": BYTES},
            "items": array(item),
            "not_loaded": array(item),
            "alternatives": array(alternative),
            "assumptions": array(TEXT),
            "warnings": array(TEXT),
        }
    )
    return whole


def head(**more: Any) -> dict[str, Any]:
    """What every answer of a plan begins with."""
    return {"schema_version": {"const": SCHEMA_VERSION}, "oomph_version": TEXT, "job": job(), "model": model(), **more}


TOLD = {"assumptions": array(TEXT), "warnings": array(TEXT)}  # of a job as it was asked for


def limit() -> dict[str, Any]:
    """The largest value of one input: at it the job fits, beyond it does not."""
    brief = obj(
        {
            "job": job(),
            "num_layers": BYTES,
            "figures": array(figure()),
            "peak": null_or(TEXT),
            "why": TEXT,
            "verdict": null_or(verdict()),
        }
    )
    return obj(
        {
            "over": TEXT,
            "value": {**BYTES, "description": "0: not even one fits"},
            "bound": {**TEXT, "description": "memory, or why no larger value was looked at"},
            "sentence": TEXT,
            "monotone": {"type": "boolean"},
            "larger_values_that_fit": array(BYTES),
            "at": null_or(brief),
            "beyond": null_or(brief),
        }
    )


def change() -> dict[str, Any]:
    """A changed job: the levers pulled, what that saves, and whether it fits."""
    sets = obj({"input": TEXT, "before": {}, "after": {}})
    part = obj(
        {
            "lever": TEXT,
            "sets": array(sets),
            "say": array(obj({"input": TEXT, "value": {}})),
            "price": {"enum": list(PRICES.values())},
            "cost": TEXT,
            "source": {**TEXT, "format": "uri"},
        }
    )
    return obj(
        {
            "parts": array(part),
            "job": {"type": "object"},
            "peak_bytes": BYTES,
            "saved_bytes": {"type": "integer", "description": "of tensors at the peak"},
            "status": {"enum": list(STATUSES)},
            "device": null_or(figure()),
        }
    )


def plan() -> dict[str, Any]:
    """The JSON schema of `oomph plan`."""
    return obj(
        head(
            **TOLD,
            device={"type": "object"},
            verdict=verdict(),
            figures=array(figure()),
            peak=TEXT,
            peak_bytes=BYTES,
            why=TEXT,
            advice=TEXT,
            changes=array(change()),
            combination=null_or(change()),
            room=array(limit()),
            upgrades=array(change()),
            refused=array(obj({"lever": TEXT, "reason": TEXT})),
        )
    )


def on_devices() -> dict[str, Any]:
    """The JSON schema of `oomph plan` with several GPUs."""
    brief = limit()["properties"]["at"]["anyOf"][0]["properties"]
    return obj(head(**TOLD, devices=array(obj({"device": {"type": "object"}, **brief}))))


def limits() -> dict[str, Any]:
    """The JSON schema of `oomph max`."""
    return obj(head(**TOLD, device={"type": "object"}, limits=array(limit())))


def serve_map() -> dict[str, Any]:
    """The JSON schema of `oomph serve --map`."""
    rows = {"description": "one row for each context, one column for each number of requests"}
    return obj(
        head(
            device={"type": "object"},
            contexts=array({"type": "integer", "minimum": 1}),
            concurrencies=array({"type": "integer", "minimum": 1}),
            status={**array(array({"enum": list(MAP_STATUSES)})), **rows},
            share={**array(array(null_or({**NUMBER, "minimum": 0}))), **rows},
            assumptions=array(TEXT),
            warnings=array(TEXT),
        )
    )


def reconciliation() -> dict[str, Any]:
    """The JSON schema of `oomph reconcile`."""
    real = obj({"name": TEXT, "value": NUMBER, "device": TEXT, "line": {"type": "integer", "minimum": 1}, "text": TEXT})
    report = obj(
        {
            "program": TEXT,
            "command": {**array(TEXT), "description": "what would start it again, as far as the log tells"},
            "facts": {"type": "object", "additionalProperties": TEXT},
            "figures": array(real),
        }
    )
    row = obj(
        {
            "name": {**TEXT, "description": "ends in the unit: weights_gib, kv_tokens"},
            "expected": NUMBER,
            "safe": NUMBER,
            "real": real,
            "relative_error": NUMBER,
            "agrees": {"type": "boolean"},
            "above": {"type": "boolean", "description": "beyond what the safe value allows for"},
            "reasons": array(TEXT),
        }
    )
    names = {"schema_version": {"const": SCHEMA_VERSION}, "oomph_version": TEXT, "job": null_or({"type": "object"})}
    return obj({**names, "reports": array(report), "rows": array(row), "notes": array(TEXT)})


def titled(title: str, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": "Bytes are integers. A new key is a minor version, a changed meaning a major one.",
        **found,
    }


def main() -> None:
    pages = {
        "ledger.schema.json": titled("oomph ledger", schema()),
        "plan.schema.json": titled("oomph plan", plan()),
        "plan-gpus.schema.json": titled("oomph plan, several GPUs", on_devices()),
        "max.schema.json": titled("oomph max", limits()),
        "reconcile.schema.json": titled("oomph reconcile", reconciliation()),
        "map.schema.json": titled("oomph serve --map", serve_map()),
    }
    for name, found in pages.items():
        path, text = DOCS / name, json.dumps(found, indent=2) + "\n"
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{name} is out of date: run python scripts/make_schema.py")


if __name__ == "__main__":
    main()
