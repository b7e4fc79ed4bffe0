"""Each program's lines become figures: words as the programs print them, numbers as they stand there."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.errors import SourceError
from oomph.reconcile.found import Line, Report
from oomph.reconcile.logs import MODULES, read
from oomph.reconcile.text import MAX_LINE, read_lines
from tests.conftest import SHARED

LOGS = Path(__file__).parent / "logs"


def _log(name: str) -> str:
    """Return a log in the programs' own words, cut to the lines on memory."""
    return (LOGS / f"{name}.txt").read_text()


def _read(text: str) -> tuple[Report, ...]:
    return read(read_lines(io.BytesIO(text.encode()), "a log"))


def _values(text: str) -> dict[str, float]:
    (report,) = _read(text)
    return {one.name: one.value for one in report.figures}


def test_vllm_of_v1() -> None:
    """The lines of a start, and the command they amount to, without what is secret in it."""
    (report,) = _read(_log("vllm_v1"))
    assert {one.name: one.value for one in report.figures} == {
        "weights_gib": 12.56,
        "kv_cache_gib": 61.66,
        "kv_tokens": 126256,
        "max_concurrency": 15.41,
        "cuda_graph_gib": 0.89,
    }
    assert report.facts == {"version": "0.19.0"}
    words = ("vllm", "serve", "codellama/CodeLlama-7b-hf")
    flags = ("--max-model-len=8192", "--gpu-memory-utilization=0.95", "--no-enable-prefix-caching")
    assert report.command == (*words, *flags)


def test_vllm_of_v0() -> None:
    """All four terms stand in one line there."""
    assert _values(_log("vllm_v0")) == {
        "total_gib": 79.11,
        "weights_gib": 14.99,
        "non_torch_gib": 0.09,
        "activation_peak_gib": 1.21,
        "kv_cache_gib": 54.91,
        "kv_blocks": 28114,
    }


def test_sglang() -> None:
    """Its GB are GiB; keys and values are added up; only settings that move memory are taken."""
    (report,) = _read(_log("sglang"))
    assert {one.name: one.value for one in report.figures} == {
        "mem_before_load_gib": 275.75,
        "weights_gib": 15.28,
        "kv_tokens": 1707904,
        "kv_cache_gib": 234.56,
        "avail_after_pool_gib": 25.28,
        "cuda_graph_gib": 0.60,
    }
    assert {one.device for one in report.figures} == {"TP0"}
    words = ("python", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B")
    assert report.command == (*words, "--mem-fraction-static=0.9")


def test_llama_cpp() -> None:
    """Every buffer under its device, and their sums over GPUs and host."""
    (report,) = _read(_log("llamacpp"))
    assert [(one.device, one.value) for one in report.named("model_each_mib")] == [
        ("CUDA0", 7165.44),
        ("CUDA_Host", 552.23),
    ]
    sums = {one.name: one.value for one in report.figures if not one.device}
    assert sums == {
        "kv_cells": 32768,
        "kv_layers": 28,
        "model_gpu_mib": 7165.44,
        "model_host_mib": 552.23,
        "kv_mib": 1792.0,
        "kv_gpu_mib": 1792.0,
        "compute_buffer_mib": 382.01,
        "host_buffer_mib": 71.01,
    }
    flags = dict(zip(report.command[3::2], report.command[4::2], strict=True))
    assert report.command[:3] == ("llama-server", "-m", "/m/qwen.gguf")
    assert flags == {"-ngl": "29", "-np": "1", "-c": "32768", "-ub": "512", "-fa": "on", "-ctk": "f16", "-ctv": "f16"}


def test_llama_cpp_with_a_draft() -> None:
    """Two models in one log of a real server (build 11549, on the CPU): each has its sums, its words of the command.

    Its list of devices is no nvidia-smi, and what a slot has room for not the whole cache.
    """
    (report,) = _read(_log("llamacpp_draft"))
    sums = {one.name: one.value for one in report.figures if not one.device}
    assert sums == {
        "kv_cells": 2048,
        "kv_layers": 6,
        "model_host_mib": 16.23,
        "kv_mib": 24.0,
        "host_buffer_mib": 11.52,
        "draft_kv_cells": 2048,
        "draft_kv_layers": 6,
        "draft_model_host_mib": 23.03,
        "draft_kv_mib": 12.0,
        "draft_host_buffer_mib": 11.52,
    }
    words = " ".join((*report.command, *report.beside))
    assert words.startswith("llama-server -m /m/model.gguf -np 2 -c 4096 ")
    assert words.endswith("-ngl 0 -md /m/draft.gguf --spec-type draft-simple -ngld 0")
    (report,) = _read(_log("llamacpp_draft") + "I srv load_model: loaded multimodal model, '/m/mmproj.gguf'\n")
    assert report.beside[-2:] == ("-mm", "/m/mmproj.gguf")
    assert "version" not in report.facts  # no build is known to be newer


def test_ik_llama_cpp() -> None:
    """Its own settings tell it apart, and are flags of its own command; older builds print one setting less."""
    (report,) = _read(_log("ik_llamacpp"))
    sums = {one.name: one.value for one in report.figures if not one.device}
    assert report.program == "ik_llama.cpp"
    assert (sums["kv_mib"], sums["compute_buffer_mib"], sums["host_buffer_mib"]) == (7.17, 30.61, 16.51)
    words = " ".join(report.command)
    assert words.startswith("ik_llama.cpp/llama-server -m /m/deepseek2-q8_0.gguf -ngl 7 -c 4096 -b 2048 -ub 512 -fa on")
    assert words.endswith("-mla 3 -amb 0 -ctk q8_0 -fmoe")
    assert "version" not in report.facts
    older = "\n".join(line for line in _log("ik_llamacpp").splitlines() if "fused_up_gate" not in line)
    (report,) = _read(older.replace("fused_moe     = 1", "fused_moe  = 0"))
    assert (report.facts["version"], report.command[-1]) == ("b3811", "-no-fmoe")


def test_llama_cpp_says_whether_slots_share_a_cache() -> None:
    """As they do where a server chooses their number by itself."""
    (alone,) = _read(_log("llamacpp_draft"))
    (shared,) = _read(_log("llamacpp_draft").replace("= false", "= true"))
    assert ("-kvu" in shared.command, "-kvu" in alone.command) == (True, False)


@pytest.mark.parametrize(
    ("line", "version", "format"),
    [
        ("build: 7654 (0c1e57098) with cc", "b7654", "q8_0"),
        ("llama_kv_cache_unified: CPU KV buffer size = 1.00 MiB", "b7079", "q8_0"),
        ("", "b7079", "q8_0"),
    ],
)
def test_llama_cpp_s_build_and_the_file_s_type(line: str, version: str, format: str) -> None:
    """A log says its build, or its functions' names tell; and what kind of file it loaded."""
    (report,) = _read(line + "\n" + _log("llamacpp"))
    assert report.facts["version"] == version
    assert report.facts["format"] == format


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "torch_2",
            {
                "asked_gib": 2.0, "total_gib": 79.11, "free_gib": 1.06, "process_gib": 76.55, "allocated_gib": 74.1,
                "cached_gib": 1.9, "reserved_gib": 76.0, "others_gib": 1.5,
            },
        ),
        (
            "torch_1",
            {
                "asked_gib": 0.5, "total_gib": 23.65, "free_gib": 3.06 / 1024, "allocated_gib": 21.9,
                "reserved_gib": 22.3,
            },
        ),
        (
            "megatron",
            {
                "allocated_mib": 24042.5, "max_allocated_mib": 53210.25, "reserved_mib": 55000.0,
                "max_reserved_mib": 56000.0,
            },
        ),
        (
            "deepspeed",
            {"allocated_gib": 5.2, "max_allocated_gib": 6.01, "reserved_gib": 6.5, "max_reserved_gib": 7.0},
        ),
    ],
)  # fmt: skip
def test_torch_and_trainers(name: str, values: dict[str, float]) -> None:
    """torch of both wordings, Megatron, DeepSpeed."""
    assert _values(_log(name)) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("processes", "process", "others"),
    [
        ("Process 12345 has 22.60 GiB memory in use.", 22.6, None),
        ("Process 12345 has 22.10 GiB memory in use. Process 7 has 0.50 GiB memory in use.", 22.1, 0.5),
        ("Process 7 has 0.50 GiB memory in use.", None, 0.5),
    ],
)
def test_torch_in_a_container_lists_itself(processes: str, process: float | None, others: float | None) -> None:
    """Its number outside is not the one it knows; what holds more than its cache is itself, no other process."""
    values = _values(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 23.64 "
        f"GiB of which 1.02 GiB is free. {processes} Of the allocated memory 21.50 GiB is allocated by PyTorch, and "
        "600.00 MiB is reserved by PyTorch but unallocated."
    )
    assert (values.get("process_gib"), values.get("others_gib")) == (pytest.approx(process), pytest.approx(others))


def test_nvidia_smi_tells_gpus_apart() -> None:
    """Used and total of each GPU, and a process with its name."""
    (report,) = _read(_log("nvidia_smi"))
    used = {one.device: one.value * 1024 for one in report.named("used_gib")}
    assert used == {"GPU 0": 559, "GPU 1": 70001}
    assert {one.value * 1024 for one in report.named("total_gib")} == {81559}
    (process,) = report.named("process_gib")
    assert (process.device, process.value * 1024) == ("GPU 1 /usr/bin/python3.11", 69990)


def test_a_query_of_nvidia_smi() -> None:
    """The csv form, whichever column comes first."""
    assert _values("70001 MiB, 81559 MiB\n") == _values("81559 MiB, 70001 MiB\n")


def test_escape_codes_and_progress_bars_are_no_hindrance() -> None:
    """Colours around words, and a bar that is redrawn in the same line."""
    text = "Loading: 10%|#\rLoading: 100%|##\r\x1b[32mModel loading took\x1b[0m 7.5552 GiB memory and 0.3 seconds"
    assert _values(text) == {"weights_gib": 7.5552}


@pytest.mark.parametrize("text", ["", "nothing here", "\x00\x00", "Model loading took long"])
def test_a_log_without_memory_says_what_is_read(text: str) -> None:
    """No figure, no report, and no traceback."""
    with pytest.raises(SourceError, match="has no line on memory"):
        _read(text)


@given(text=st.text(alphabet=st.sampled_from("0123456789.,= (){}'|:GiMB\x1b[31m K size# tokenstook")))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands behind a known word: figures, or the error."""
    for start in (
        "Model loading took ",
        "KV Cache is allocated. #tokens: ",
        "buffer size = ",
        "Tried to allocate ",
        "",
    ):
        with suppress(SourceError):
            _read(start + text)


def test_a_line_without_end_is_cut() -> None:
    """A megabyte without a line break is read in pieces, none of them longer than the limit."""
    lines = list(read_lines(io.BytesIO(b"non-default args: {" * 60_000), "a log"))
    assert max(len(line.text) for line in lines) <= MAX_LINE
    assert all(isinstance(line, Line) for line in lines)


def _repeats(parsed: object, inside: bool = False) -> bool:
    """Say whether a parsed pattern repeats without bound, or repeats what itself repeats without a small bound."""
    for op, argument in parsed:  # type: ignore[attr-defined]
        name = str(op)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, below = argument
            if inside or "MAXREPEAT" in str(most):
                return True
            if _repeats(below, most > 4):
                return True
        below = [argument[-1]] if name == "SUBPATTERN" else argument[1] if name == "BRANCH" else []
        if any(_repeats(each, inside) for each in below):
            return True
    return False


def test_no_pattern_can_hang() -> None:
    """Every pattern of every reader is bounded in length, and none repeats a repetition."""
    try:
        from re import _parser as parser  # type: ignore[attr-defined]
    except ImportError:
        import sre_parse as parser
    found = []
    for name in (*MODULES, "ik"):
        module = vars(import_module(f"oomph.reconcile.logs.{name}"))
        flat = [each for value in module.values() for each in (value if isinstance(value, tuple) else (value,))]
        found += [item for each in flat for item in (each if isinstance(each, tuple) else (each,))]
    patterns = [each.pattern for each in found if isinstance(each, re.Pattern)]
    assert len(patterns) > 50
    assert [pattern for pattern in patterns if _repeats(parser.parse(pattern))] == []


def _whole(row: dict[str, Any]) -> bool:
    """Say whether a quote has the buffers of all devices: long ones were cut."""
    devices = row["measured"].get("per_device", {})
    return all(f"{size:.2f} MiB" in row["quote"] for name in ("model", "KV") for _, size in devices.get(name, []))


@pytest.mark.shared
def test_published_logs_say_what_their_rows_say() -> None:
    """Of the lines that rows of measurements quote, the figures are those that the rows give."""
    checked = 0
    for text in (SHARED / "truth" / "inference.jsonl").read_text().splitlines():
        row = json.loads(text)
        if row["engine"] not in ("vllm", "sglang", "llama.cpp") or "swa" in str(row["measured"]) or not _whole(row):
            continue
        with suppress(SourceError):
            (report, *_) = _read(row["quote"].replace(" | ", "\n"))
            for name in ("weights_gib", "kv_tokens", "max_concurrency", "model_gpu_mib", "kv_mib"):
                said, found = row["measured"].get(name), report.named(name)
                if isinstance(said, (int, float)) and found:  # the most exact of those that say the same
                    assert min(abs(one.value / said - 1) for one in found) < 2e-3, (row["id"], name)
                    checked += 1
    assert checked > 100, checked
