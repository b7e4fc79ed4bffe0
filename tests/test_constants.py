"""Constants: each row is of a device of the table and reads as its source, and what is unknown widens the bound."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from oomph import data
from oomph.constants import constant, measured, rule
from oomph.devices import devices, find, parse_gpus
from oomph.units import GIB, KIB, MIB

ROOT = Path(__file__).parents[1]
CONTEXTS = constant("cuda_context")["seen"]
CUBLAS = (2 * 4096 + 8 * 16) * KIB  # :4096:2:16:8 in torch's CublasHandlePool.cpp


def test_the_data_is_what_the_facts_give(capsys: pytest.CaptureFixture[str]) -> None:
    """constants.json and scripts/facts/contexts.csv do not drift apart."""
    path = ROOT / "scripts" / "make_constants.py"
    if not path.is_file():
        pytest.skip("a wheel has no scripts")
    spec = importlib.util.spec_from_file_location("make_constants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(check=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(json.loads(data.read_text("constants.json"))))
def test_every_entry_says_what_it_is(name: str) -> None:
    """What, unit, and for each value its range and where it comes from."""
    entry = constant(name)
    assert entry["what"]
    assert entry["unit"] == "bytes" or (entry["low"] <= entry["high"] and entry["n"] and entry["source"])
    for row in entry.get("seen", []):
        assert 0 < row["low"] <= row["high"] < 3 * GIB
        assert row["n"] >= 1
        assert row["source"]
        assert find(row["device"]).compute_capability == row["compute_capability"]
    for row in entry.get("rules", []):
        assert 0 < row["low"] <= row["value"] <= row["high"]
        assert row["why"]


@pytest.mark.parametrize(
    ("gpu", "process", "allocated", "unallocated_mib"),
    [
        ("t4", 14.67, 14.55, 23.38),  # github.com/hpcaitech/Open-Sora/issues/697
        ("rtx-4090", 22.80, 22.10, 222.14),  # github.com/pytorch/torchchat/issues/1341
        ("rtx-5090", 31.34, 30.74, 19.41),  # github.com/Wan-Video/Wan2.1/issues/465
    ],
)
def test_a_context_is_what_a_message_leaves(gpu: str, process: float, allocated: float, unallocated_mib: float) -> None:
    """Process memory less what torch allocated and reserved, as an out-of-memory message prints them."""
    left = round((process - allocated) * GIB - unallocated_mib * MIB)
    assert any((row["device"], row["low"]) == (gpu, left) for row in CONTEXTS)
    found = measured("cuda_context", find(gpu))
    assert found.low <= left <= found.high
    assert "github.com" in found.evidence


def test_an_own_measurement_counts() -> None:
    """The A100 80 GB: 16.54 - 15.94 GiB - 205.65 MiB; at most what its 40 GB sister showed."""
    found = measured("cuda_context", find("a100-80gb-sxm"))
    assert abs(found.n_bytes - (0.60 * GIB - 205.65 * MIB)) < 1
    assert abs(found.high - (1.38 * GIB - 912.01 * MIB)) < 1
    assert found.source == "measured"
    assert found.n == 17


@pytest.mark.parametrize("gpu", ["rtx-5080", "v100-32gb", "b200", "mi300x", "24GiB"])
def test_what_was_not_measured_gets_the_widest(gpu: str) -> None:
    """A relative, a stranger or a bare size: the most seen anywhere, and the gap says so."""
    found = measured("cuda_context", parse_gpus(gpu).device)
    assert found.high == max(row["high"] for row in CONTEXTS if row["loading"] == "lazy")
    assert "not measured" in found.gap
    assert found.low <= found.n_bytes < found.high


def test_old_torch_is_not_mixed_in() -> None:
    """Contexts with every kernel loaded at once, as before CUDA 11.7, are kept but not used."""
    assert max(row["high"] for row in CONTEXTS) == 1687 * MIB
    assert measured("cuda_context", find("v100-16gb")).high < GIB


@pytest.mark.parametrize(
    ("gpu", "n_bytes", "high"),
    [
        ("t4", CUBLAS, CUBLAS),
        ("a100", CUBLAS, CUBLAS),
        ("rtx-4090", CUBLAS, CUBLAS),
        ("h100", 32 * MIB, 32 * MIB),
        ("b200", 32 * MIB, 32 * MIB),
        ("b300", 32 * MIB, 32 * MIB),
        ("rtx-5090", 32 * MIB, 32 * MIB),
        ("jetson-thor", CUBLAS, 32 * MIB),
        ("mi300x", 128 * MIB, (128 + 76) * MIB),
        ("rx-7900-xtx", 32 * MIB, (32 + 76) * MIB),
    ],
)
def test_cublas_workspaces(gpu: str, n_bytes: int, high: int) -> None:
    """parseChosenWorkspaceSize: 32 MiB where the major capability is 9, 10 or 12; on AMD by architecture."""
    found = rule("cublas_workspace", find(gpu))
    assert (found.n_bytes, found.high, found.source) == (n_bytes, high, "rule")


def test_every_gpu_with_cublas_has_a_rule() -> None:
    """Each NVIDIA and AMD device of the table; others have no cuBLAS."""
    for device in devices():
        if device.vendor in ("nvidia", "amd"):
            assert "no rule" not in rule("cublas_workspace", device).gap, device.id


def test_no_rule_is_the_default_and_the_widest() -> None:
    """A bare size may be any device."""
    found = rule("cublas_workspace", parse_gpus("24GiB").device)
    assert (found.n_bytes, found.high) == (CUBLAS, (128 + 76) * MIB)
    assert "no rule" in found.gap
    assert rule("cublas_workspace", None).high == found.high


def test_contexts_of_old_torch_are_those_with_all_kernels_loaded() -> None:
    """Before lazy loading a V100's context was 1343 MiB; a card that was not seen takes what others showed then."""
    old = replace(find("v100-16gb"), kernel_loading="eager")
    assert measured("cuda_context", old).n_bytes == 1343 * MIB
    assert measured("cuda_context", replace(find("t4"), kernel_loading="eager")).low >= 1343 * MIB
    assert measured("cuda_context", find("v100-16gb")).high < 1343 * MIB
