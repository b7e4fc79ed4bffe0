"""Projectors beside a model: weights and buffers as a real llama.cpp logs them, and where they lie."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import sources
from oomph.answer import subject
from oomph.devices import find
from oomph.engines.ik import IkJob
from oomph.engines.llamacpp.builds import build_of
from oomph.engines.llamacpp.clip import projector_of
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.errors import UnsupportedError
from oomph.units import MIB
from tests.engines.llamacpp import real, tiny, towers

HUNDREDTH = 0.0051  # half of the last decimal, in MiB
LLAMA = subject("llama-3.1-8b")
_BUFFER = re.compile(r"reserve_compute_meta: +\S+ compute buffer size = +([\d.]+) MiB")
_COUNTED = re.compile(r"worst-case memory usage of mmproj is ([\d.]+) MiB")
_WEIGHTS = re.compile(r"model size: +([\d.]+) MiB")


def _gguf() -> None:
    pytest.importorskip("gguf", reason="pip install gguf: what writes the files of these tests")


@pytest.mark.slow
@pytest.mark.parametrize("name", towers.KINDS)
def test_weights_and_buffers_are_those_a_real_server_logs(name: str, tmp_path: Path) -> None:
    """Each kind of tower that is known, with flash attention or, every other, without; F16 or F32."""
    real.needed()
    at = list(towers.KINDS).index(name)
    flash, half = at % 2 == 0 or name == "pixtral", at % 3 != 0
    tiny.write(tmp_path / "model.gguf", tiny.CONFIGS["llama"], "q8_0")
    towers.write(tmp_path / "mmproj.gguf", name, tiny.CONFIGS["llama"]["hidden_size"], half)
    said = real.start(
        tmp_path / "model.gguf", mmproj_path=str(tmp_path / "mmproj.gguf"), warmup=True, n_ctx=1024, n_parallel=1,
        flash_attn_type=int(flash), fit_params=True, verbosity=9,
    )  # fmt: skip
    job = LlamaCppJob(mmproj=str(tmp_path / "mmproj.gguf"), flash_attn="on" if flash else "off")
    ours = projector_of(job, gpus=False)
    assert ours.buffers is not None
    assert ours.weights / MIB == pytest.approx(float(_WEIGHTS.findall(said.text)[0]), abs=HUNDREDTH)
    counted = (ours.counted + ours.buffers[0]) / MIB
    assert counted == pytest.approx(float(_COUNTED.findall(said.text)[0]), abs=HUNDREDTH), "by --fit"
    assert ours.buffers[0] / MIB == pytest.approx(float(_BUFFER.findall(said.text)[-1]), abs=HUNDREDTH)


def test_a_projector_lies_on_the_first_gpu_or_with_the_host(tmp_path: Path) -> None:
    """Its items are what the room there is less; the largest image is in the upper bound."""
    _gguf()
    path = tmp_path / "mmproj.gguf"
    towers.write(path, "qwen2vl_merger", 4096)
    gpus, plain = [find("rtx-4090")] * 2, LlamaCppJob(context=8192, format="q8_0")
    alone = deploy(LLAMA, plain, gpus)
    both = deploy(LLAMA, LlamaCppJob(context=8192, format="q8_0", mmproj=str(path)), gpus)
    more = {item.name: item for item in both.shares[0].items[len(alone.shares[0].items) :]}
    weights, buffer = more["weights of the projector"], more["compute buffer of the projector"]
    assert weights.n_bytes < path.stat().st_size + 2**16
    assert buffer.safe_bytes > 1.5 * buffer.n_bytes, "4096 tokens, not 46 x 46"
    assert (alone.shares[0].room_bytes or 0) - (both.shares[0].room_bytes or 0) == weights.n_bytes + buffer.n_bytes
    assert both.shares[1].items == alone.shares[1].items
    assert [line.name for line in both.printed][-1] == "mmproj_buffer_mib"
    kept = deploy(LLAMA, LlamaCppJob(context=8192, format="q8_0", mmproj=str(path), mmproj_offload=False), gpus)
    assert kept.shares[0].items == alone.shares[0].items
    assert "weights of the projector" in {item.name for item in kept.shares[-1].items}


def test_fewer_tokens_of_an_image_and_older_builds(tmp_path: Path) -> None:
    """--image-max-tokens bounds the buffer; builds before 11549 made the mask of windows in F32 and cast it."""
    _gguf()
    path = str(tmp_path / "mmproj.gguf")
    towers.write(Path(path), "qwen2.5vl_merger", 4096)
    whole, few = (projector_of(LlamaCppJob(mmproj=path, image_max_tokens=most), True) for most in (None, 2200))
    assert whole.largest is not None
    assert few.largest is not None
    assert whole.buffers == few.buffers
    assert whole.largest > few.largest
    old = projector_of(LlamaCppJob(mmproj=path, version="b9700"), True)
    assert not build_of(9700).image_mask_f16
    assert old.buffers is not None
    assert old.buffers > (whole.buffers or (0, 0))


def test_a_tower_that_is_not_known_is_weights_and_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffer is named as what is missing."""
    _gguf()
    path = tmp_path / "mmproj.gguf"
    monkeypatch.setitem(towers.KINDS, "resampler", towers.KINDS["mlp"])
    towers.write(path, "resampler", 4096)
    found = deploy(LLAMA, LlamaCppJob(context=4096, format="q8_0", mmproj=str(path)), [find("rtx-4090")])
    assert [each for each in found.warnings if "resampler" in each]
    assert {"weights of the projector"} == {item.name for item in found.shares[0].items if "projector" in item.name}


@pytest.mark.parametrize(("change", "named"), [
    ({"patch": 0}, "projector mlp"), ({"image": 2**20}, "image_size"), ({"heads": 7}, "projector mlp"),
])  # fmt: skip
def test_files_that_are_broken_are_refused(
    change: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that do not go with the tensors, or none of an image."""
    _gguf()
    path = tmp_path / "mmproj.gguf"
    towers.write(path, "mlp", 4096)
    keys = {"patch": b"clip.vision.patch_size", "image": b"clip.vision.image_size", "heads": b"attention.head_count"}
    name, value = next(iter(change.items()))
    written = bytearray(path.read_bytes())
    at = written.index(keys[name]) + len(keys[name]) + 4  # the type of the value, 32 bits, comes before it
    written[at : at + 4] = int(value).to_bytes(4, "little")
    path.write_bytes(written)
    with pytest.raises(UnsupportedError, match=named):
        projector_of(LlamaCppJob(mmproj=str(path)), True)


def test_a_kind_that_is_no_word_is_shown_and_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list, as a file from outside may have there."""
    _gguf()
    path = tmp_path / "mmproj.gguf"
    towers.write(path, "mlp", 4096)
    read = sources.load(str(path))
    assert read.header is not None
    odd = replace(read.header, metadata={**read.header.metadata, "clip.projector_type": ["mlp"] * 99})
    monkeypatch.setattr(sources, "load", lambda *_, **__: replace(read, header=odd))
    assert projector_of(LlamaCppJob(mmproj=str(path)), True).kind.startswith("['mlp'")


@pytest.mark.parametrize(("flags", "named"), [
    ({"mmproj": "no-such.gguf"}, "no-such"), ({"mmproj": "llama-3.2-1b"}, "no projector"),
    ({"mmproj": "x.gguf", "split_mode": "none", "main_gpu": 1}, "another GPU"),
])  # fmt: skip
def test_what_is_no_projector_is_named(flags: dict[str, Any], named: str) -> None:
    """A file that is not there, a model of the catalogue; on another GPU than the first it is not known."""
    with pytest.raises(UnsupportedError, match=named):
        deploy(LLAMA, LlamaCppJob(context=4096, format="q8_0", **flags), [find("rtx-4090")] * 2)
    with pytest.raises(UnsupportedError, match="ik_llama"):
        IkJob(mmproj="x.gguf")


def test_a_projector_that_nobody_names_is_told() -> None:
    """A server that takes a repository loads it by itself; a model without one has none to tell of."""
    said = "its vision or audio part, a file of its own (--mmproj), is not counted; -hf loads it by itself"
    job = LlamaCppJob(context=4096, format="q8_0")
    assert said in deploy(subject("gemma-3-27b-it"), job).assumptions
    assert said not in deploy(LLAMA, job).assumptions
