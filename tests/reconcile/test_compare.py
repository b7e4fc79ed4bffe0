"""An estimate against a log: which figures meet, what counts as equal, and what a gap is put down to."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from oomph.ledger import Figure, Ledger, Printed
from oomph.reconcile.anatomy import sentences, slices
from oomph.reconcile.compare import Row, compared
from oomph.reconcile.logs import read
from oomph.reconcile.text import read_lines
from oomph.units import GIB

LOGS = Path(__file__).parent / "logs"
LEDGER = Ledger(job={"kind": "serve", "version": "0.19.0"}, model={"name": "CodeLlama"}, items=())


def _reports(*names: str, more: str = ""):  # type: ignore[no-untyped-def]
    text = "".join((LOGS / f"{name}.txt").read_text() for name in names) + more
    return read(read_lines(io.BytesIO(text.encode()), "a log"))


def _rows(ledger: Ledger, *names: str, more: str = "") -> dict[str, Row]:
    return {row.name: row for row in compared(_reports(*names, more=more), ledger).rows}


def test_printed_figures_meet_those_of_the_log() -> None:
    """What the engine will have printed is laid beside what it did print; nearer than the last digit is equal."""
    printed = (Printed("weights_gib", "", 12.5563), Printed("kv_tokens", "", 100_000), Printed("unheard_gib", "", 1.0))
    rows = _rows(replace(LEDGER, printed=printed), "vllm_v1")
    assert list(rows) == ["weights_gib", "kv_tokens"]
    assert rows["weights_gib"].agrees
    assert rows["weights_gib"].reasons == ()
    assert not rows["kv_tokens"].agrees
    assert round(rows["kv_tokens"].difference, 4) == round(100_000 / 126_256 - 1, 4)


def test_a_pool_is_off_by_what_came_before_it() -> None:
    """A gap in the pool is put down to the weights that took more, and to a GPU that is not the table's."""
    printed = (Printed("weights_gib", "", 14.0), Printed("kv_cache_gib", "", 55.9))
    device = {"program_bytes": 80 * GIB}
    rows = _rows(replace(LEDGER, printed=printed, device=device), "vllm_v0")
    reasons = " ".join(rows["kv_cache_gib"].reasons)
    assert "This GPU has 79.11 GiB where the table's has 80.00" in reasons
    assert "The weights took +0.99 GiB against the estimate" in reasons


def test_a_reason_is_none_for_what_the_estimate_counts() -> None:
    """A draft and slots for adapters that are in it explain nothing; a draft of assumed widths may."""
    printed = (Printed("weights_gib", "", 10.0),)
    drafts = "'speculative_config': {'method': 'eagle3', 'model': 'x/y', 'num_speculative_tokens': 3}"
    asked = f"non-default args: {{'model': 'x/z', 'enable_lora': True, {drafts}}}\n"
    without = replace(LEDGER, printed=printed)
    counted = {"enable_lora": True, "speculative_config": "{}"}
    within = replace(without, job=LEDGER.job | counted, assumptions=("one layer of the model's own widths",))
    said = {
        name: " ".join(_rows(ledger, "vllm_v1", more=asked)["weights_gib"].reasons)
        for name, ledger in (("without", without), ("within", within))
    }
    for words in ("A draft model's weights", "Slots for LoRA"):
        assert (words in said["without"], words in said["within"]) == (True, False), words
    assert "its sizes were assumed" in said["within"]


def test_another_version_is_named() -> None:
    """A log of one version, an estimate of another."""
    ledger = replace(LEDGER, job={"kind": "serve", "version": "0.33.0"}, printed=(Printed("weights_gib", "", 10.0),))
    (reason,) = [text for text in _rows(ledger, "vllm_v1")["weights_gib"].reasons if "version" in text]
    assert reason == "The log is of version 0.19.0, the estimate of 0.33.0."


def test_flags_in_the_log_explain_weights() -> None:
    """Adapter slots are counted as weights by the engine."""
    more = "non-default args: {'model': 'm', 'enable_lora': True}\n"
    rows = _rows(replace(LEDGER, printed=(Printed("weights_gib", "", 12.0),)), "vllm_v1", more=more)
    assert rows["weights_gib"].reasons[0] == "Slots for LoRA adapters are counted as weights."


def test_a_job_s_figures_meet_torch_s_and_the_driver_s() -> None:
    """Allocated, reserved and device are each found under the names that programs give them."""
    figures = tuple(
        Figure(name, size * GIB, size * GIB) for name, size in (("allocated", 74), ("reserved", 70), ("device", 71))
    )
    rows = _rows(replace(LEDGER, figures=figures), "torch_2", "nvidia_smi")
    assert {name: round(row.real.value, 2) for name, row in rows.items()} == {
        "allocated_gib": 74.1,
        "reserved_gib": 76.0,
        "process_gib": 76.55,
    }
    assert any("The cache is cut" in text for text in rows["reserved_gib"].reasons)
    assert "Other processes hold 1.50 GiB on this GPU." in rows["process_gib"].reasons


def test_the_parts_of_a_full_card_add_up() -> None:
    """torch's message gives every part of the card's memory; what it leaves open is one part."""
    for name in ("torch_2", "torch_1"):
        (report,) = _reports(name)
        total = report.last("total_gib")
        assert total is not None
        assert abs(sum(one.gib for one in slices(report)) - total.value) < 0.02


def test_the_message_in_words() -> None:
    """What was asked for, whether the cache would have done, who else is there."""
    (report,) = _reports("torch_2")
    first, cache, needed, others = sentences(report)
    assert first == "It asked for 2.00 GiB where 1.06 GiB were free."
    assert "With the 1.90 GiB that torch has cached it would have been enough" in cache
    assert needed == "76.10 GiB of tensors were needed at this moment, of 79.11 GiB of memory."
    assert others.startswith("Other processes hold 1.50 GiB")


def test_json_is_whole() -> None:
    """Every figure with its line, every row with its error."""
    found = compared(_reports("vllm_v1"), replace(LEDGER, printed=(Printed("weights_gib", "", 12.5563),))).to_dict()
    assert found["rows"][0]["real"]["line"] == 3
    assert found["reports"][0]["program"] == "vllm"
    assert found["rows"][0]["agrees"] is True
