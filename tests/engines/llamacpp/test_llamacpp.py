"""llama.cpp's rules where no engine needs to run: published logs, maps, words, limits and refusals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import Subject, resolve, subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.flags import read_flags, spellings
from oomph.engines.llamacpp import command
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.placing import place
from oomph.engines.maps import STATUSES, serve_map
from oomph.engines.serving import serve
from oomph.errors import OomphError, UnsupportedError
from oomph.header import Source
from oomph.ledger import Item
from tests.engines.llamacpp import tiny

NAMES = [line for line in Path(__file__).with_name("flags.txt").read_text().splitlines() if line.startswith("-")]


def test_every_flag_of_the_newest_build_is_known() -> None:
    """Some 400 names, each read, harmless or refused with what it does."""
    program = engine("llama.cpp")
    harmless = {name.rstrip("=+") for name in program.harmless}
    models = {name.rstrip(":") for name in program.models}
    places = (set(spellings(program.job)), harmless, set(program.refused), models)
    assert len(NAMES) > 400
    assert [name for name in NAMES if sum(name in place for place in places) != 1] == []


# What servers logged, in MiB: rows lcpp-144, -145, -142 and -016 of the published collection.
LOGGED = [
    ("llama-3.1-70b", 8192, 1, {"model_gpu_mib": 39979.48, "model_host_mib": 563.62, "kv_mib": 2560.0}),
    ("llama-3.1-70b", 4096, 2, {"model_gpu_mib": 39979.48, "kv_mib_k": 640.0, "kv_gpu_mib": 1280.0}),
    ("qwen2.5-7b", 2048, 1, {"model_gpu_mib": 4168.09, "model_host_mib": 292.36, "kv_mib": 112.0}),
    ("llama-3.2-3b", 4096, 1, {"model_gpu_mib": 1918.35, "model_host_mib": 308.23, "kv_mib": 448.0}),
]


@pytest.mark.parametrize(("model", "context", "gpus", "said"), LOGGED)
def test_published_logs(model: str, context: int, gpus: int, said: dict[str, float]) -> None:
    """Weights and cache as real servers printed them, a tied embedding twice, to the last decimal."""
    job = LlamaCppJob(format="q4_k_m", ctx_size=context, parallel=1)
    ours = {each.name: each.value for each in deploy(subject(model), job, [find("l40s")] * gpus).printed}
    for name, value in said.items():
        assert ours[name] == pytest.approx(value, abs=0.0051), name


@pytest.mark.parametrize(("model", "gib"), [("gpt-oss-20b", 11.27), ("gpt-oss-120b", 59.02)])
def test_experts_published_in_four_bits_stay_so(model: str, gib: float) -> None:
    """Nobody asks for a format: MXFP4 is kept, as in the sizes llama-bench prints (llama.cpp pull request 19922)."""
    shares = deploy(subject(model), LlamaCppJob(ctx_size=4096), []).shares
    held = sum(item.n_bytes for share in shares for item in share.items if item.group == "weights")
    assert held / 2**30 == pytest.approx(gib, abs=0.0051)


def test_layers_are_divided_as_logged() -> None:
    """Two equal GPUs and Llama 3.1 70B: weights and cache of each, of row lcpp-145."""
    job = LlamaCppJob(format="q4_k_m", ctx_size=4096, parallel=1)
    first, second, _ = deploy(subject("llama-3.1-70b"), job, [find("l40s")] * 2).shares
    weights = [share.items[0].n_bytes / 2**20 for share in (first, second)]
    assert weights == pytest.approx([20038.81, 19940.67], abs=0.0051)
    assert [share.held(4096, 1)[0].n_bytes / 2**20 for share in (first, second)] == [656.0, 624.0]


def _jobs() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "parallel": st.sampled_from([None, 1, 3]),
            "kv_unified": st.sampled_from([None, True]),
            "swa_full": st.booleans(),
            "flash_attn": st.sampled_from(["on", "off"]),
            "cache_type_k": st.sampled_from(["f16", "q8_0"]),
            "kv_offload": st.booleans(),
            "gpu_layers": st.sampled_from([None, 0, 3]),
        }
    )


@settings(max_examples=25, deadline=None)
@given(flags=_jobs(), context=st.integers(1, 9000), concurrency=st.integers(1, 9))
def test_a_map_is_what_single_answers_are(flags: dict[str, Any], context: int, concurrency: int) -> None:
    """Needs of arrays are those of each number, and what the items sum to; a longer cache is never smaller.

    A compute buffer may be: how tensors pack into it depends on their sizes.
    """
    np = pytest.importorskip("numpy")
    found = resolve(Source("gemma3", "config", tiny.CONFIGS["gemma3"]))
    job = LlamaCppJob(format="q8_0", context=context, concurrency=concurrency, **flags)
    for share in deploy(found, job, [find("rtx-4090")]).shares:
        contexts = np.array([context, context + 1, 2 * context])
        many = list(np.broadcast_to(share.needs(contexts, concurrency), 3))
        assert many == [share.needs(int(each), concurrency) for each in contexts]
        assert sum(item.n_bytes for item in share.held(context, concurrency)) == many[0]
        caches = [_cached(share.held(int(each), concurrency)) for each in contexts]
        assert caches == sorted(caches)
        assert _cached(share.held(context, concurrency + 1)) >= caches[0]


def _cached(items: Sequence[Item]) -> int:
    return sum(item.n_bytes for item in items if item.group in ("kv_cache", "state"))


@given(layers=st.integers(1, 90), asked=st.integers(0, 99), shares=st.lists(st.floats(0.1, 9), min_size=1, max_size=5))
def test_the_last_layers_go_to_gpus_in_order(layers: int, asked: int, shares: list[float]) -> None:
    """So many as were asked for, the output layer counted, and no GPU gets a layer before one that precedes it."""
    placed = place(layers, asked, shares)
    on_gpus = [*placed.layers, placed.output]
    assert sum(at >= 0 for at in on_gpus) == min(asked, layers + 1)
    assert on_gpus == sorted(on_gpus)


def test_all_weights_are_somewhere() -> None:
    """However many layers are on the GPU, none of the bytes is lost, and a tied embedding is there twice."""
    found = subject("llama-3.2-1b")
    sums = []
    for layers in range(18):
        printed = {each.name: each.value for each in deploy(found, _served(gpu_layers=layers)).printed}
        sums.append(printed.get("model_gpu_mib", 0.0) + printed["model_host_mib"])
    assert sums[0] == pytest.approx(762.81, abs=0.0051)  # row lcpp-017
    tied = sums[1] - sums[0]
    assert sums[1:] == pytest.approx([sums[0] + tied] * 17, abs=0.01)


def _served(**flags: Any) -> LlamaCppJob:
    return LlamaCppJob(**{"format": "q4_k_m", "ctx_size": 2048, **flags})


def test_experts_stay_with_the_host() -> None:
    """--cpu-moe is -ot with llama.cpp's own pattern, and --n-cpu-moe of all layers is --cpu-moe."""
    found = subject("qwen3-30b-a3b")
    of = [deploy(found, _served(**flags)).printed[0].value for flags in ({"cpu_moe": True}, {"n_cpu_moe": 48})]
    of.append(deploy(found, _served(override_tensor="ffn_.*_exps=CPU")).printed[0].value)
    assert of[0] == of[1] == of[2] < 1500


def test_the_command_serves_what_was_estimated() -> None:
    """A context of each request and their number become -c, -np and a cache that is shared."""
    job = LlamaCppJob(context=4096, concurrency=8, flash_attn="off", kv_offload=False, mmap=False)
    words = ["llama-server", "-m", "m.gguf", "-c", "32768", "-np", "8", "-kvu", "-fa", "off", "-nkvo", "--no-mmap"]
    assert command("m.gguf", job) == words
    assert command("m.gguf", LlamaCppJob()) == ["llama-server", "-m", "m.gguf"]
    assert command("m.gguf", LlamaCppJob(context=100, parallel=2))[3:] == ["-c", "200", "-np", "2"]


@pytest.mark.parametrize(
    "flags",
    [
        {"ctx_size": -1}, {"parallel": 0}, {"parallel": 257}, {"gpu_layers": "many"}, {"cache_type_k": "q3_k"},
        {"cache_type_v": "q8_0", "flash_attn": "off"}, {"split_mode": "row"}, {"tensor_split": "a,b"},
        {"override_tensor": "(a+)+=CPU"}, {"override_tensor": "exps=CUDA0"}, {"override_tensor": "[=CPU"},
        {"image_max_tokens": 0}, {"spec_type": "draft-eagle3"}, {"embedding": True}, {"version": "new"},
        {"flash_attn": "perhaps"},
        {"context": 0}, {"concurrency": 0}, {"ubatch_size": 1.5}, {"tensor_split": "nan,1"},
    ],
)  # fmt: skip
def test_what_is_not_taken_is_refused(flags: dict[str, Any]) -> None:
    """With a sentence, whatever was written."""
    with pytest.raises(OomphError):
        LlamaCppJob(**flags)


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("llama-3-8b", {"format": "nf4"}, "serves GGUF files"),
        ("llama-3-8b", {"format": "q8_0", "version": "b5000"}, "build 5000"),
        ("llama-3-8b", {"format": "q8_0", "split_mode": "none", "main_gpu": 3}, "no GPU 3"),
        ("llama-3-8b", {"format": "q8_0", "tensor_split": "1,1,1"}, "3 GPUs of 2"),
    ],
)
def test_what_does_not_go_together_says_so(model: str, flags: dict[str, Any], said: str) -> None:
    """A format that is no GGUF, an old build's own choices, GPUs that are not there."""
    with pytest.raises(OomphError, match=said):
        deploy(subject(model), LlamaCppJob(context=100, **flags), [find("rtx-4090")] * 2)


@pytest.mark.parametrize(
    ("words", "said"), [("-fa -c 8192", "on"), ("-c 8192 -fa", "on"), ("-fa off -c 8192", "off"), ("-c 8192", "auto")]
)
def test_flash_attention_of_older_commands_stands_alone(words: str, said: str) -> None:
    """Up to August 2025 -fa took no value, and so it is pasted."""
    job = read_flags(engine("llama.cpp"), words.split()).job
    assert (job.flash_attn, job.ctx_size) == (said, 8192)  # type: ignore[attr-defined]


def test_layers_that_keep_nothing_are_refused_where_they_should() -> None:
    """A family whose layers do not say what they keep is no model without a cache."""
    from oomph.engines.llamacpp.sizes import of_model

    model = subject("llama-3-8b").model
    with pytest.raises(UnsupportedError, match="is not known"):
        of_model(replace(model, num_layers=model.num_layers + 1))


def test_what_is_not_counted_is_said() -> None:
    """No graph is known of recurrent layers whose states lie with the host."""
    found = resolve(Source("lfm2", "config", tiny.CONFIGS["lfm2"]))
    known, unknown = (deploy(found, _served(kv_offload=on)) for on in (True, False))
    assert not known.warnings
    assert "with its cache on the host is not known here" in unknown.warnings[0]
    assert "compute_buffer_mib" not in {line.name for line in unknown.printed}


def test_a_told_context_limits_requests() -> None:
    """-c is divided among slots unless they share it; a request longer than its part is not served."""
    verdict = serve(
        subject("llama-3-8b"), engine("llama.cpp"),
        _served(ctx_size=8192, parallel=4, concurrency=4, context=4096), [find("a100-80gb-sxm")],
    ).verdict  # fmt: skip
    assert verdict is not None
    assert not verdict.fits
    assert "a context of 4,096 is more than 2,048" in verdict.sentence


def test_an_estimate_takes_about_a_millisecond() -> None:
    """Once the model is loaded; the bound is ten times what it takes, for slow machines."""
    found = subject("llama-3.1-70b")
    gpus = [find("l40s")] * 2
    deploy(found, _served(), gpus)
    start = time.process_time()
    for context in range(1024, 1124):
        deploy(found, _served(ctx_size=context), gpus)
    assert (time.process_time() - start) / 100 < 0.01


@pytest.fixture(scope="module")
def of_file(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model that is known by its GGUF header alone."""
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny.write(path, tiny.CONFIGS["gemma3"], "q8_0")
    return subject(str(path))


_ODD = st.sampled_from([0, 1, -1, 2**31, 2**40, None, "x", 1.5, True, [], [0], [1, 2, 3], ["a"], [None] * 7, 64])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_odd_files_end_in_a_sentence(of_file: Subject, data: st.DataObject) -> None:
    """Whatever the keys of a file say and whichever tensors it lacks, it is estimated or refused."""
    header = of_file.source.header
    assert header is not None
    keys, tensors = dict(header.metadata), list(header.tensors)
    for key in data.draw(st.lists(st.sampled_from(sorted(keys)), max_size=2)):
        keys[key] = data.draw(_ODD)
    for at in data.draw(st.lists(st.integers(0, len(tensors) - 1), max_size=2)):
        shape = data.draw(st.sampled_from([(), (0,), (256,), (1, 256), (2, 3, 256)]))
        name = data.draw(st.sampled_from([tensors[at].name, "blk.9999.attn_q.weight", "q" * 70]))
        tensors[at] = replace(
            tensors[at], name=name, shape=shape, dtype=data.draw(st.sampled_from(["fp32", "Q4_K", "?"]))
        )
    source = replace(of_file.source, header=replace(header, tensors=tuple(tensors), metadata=keys))
    with suppress(OomphError):
        for share in deploy(
            replace(of_file, source=source, model=replace(of_file.model)), LlamaCppJob(context=64)
        ).shares:
            share.held(64, 1)


def test_prompts_that_the_host_keeps_are_bounded_or_said() -> None:
    """--cache-ram: 8 GiB by itself, in the upper bound alone; none for 0; without a limit that is said."""
    found = subject("qwen2.5-0.5b")
    usual, none, endless = (
        deploy(found, LlamaCppJob(context=512, format="q8_0", cache_ram=most)) for most in (8192, 0, -1)
    )
    kept = [item for item in usual.shares[-1].items if item.name == "prompts kept for later"]
    assert [(item.n_bytes, item.safe_bytes) for item in kept] == [(0, 8 * 2**30)]
    assert len(none.shares[-1].items) == len(endless.shares[-1].items) == len(usual.shares[-1].items) - 1
    assert [each for each in endless.assumptions if "--cache-ram -1" in each]
    assert not [each for each in none.assumptions if "--cache-ram" in each]


@pytest.mark.parametrize(
    ("flags", "context", "concurrency", "why"),
    [
        ({}, 2048, 4, ""),
        ({}, 2048, 5, "10,240 tokens of all requests are more than 8,192: -c is so many tokens"),
        ({}, 8193, 1, "a context of 8,193 is more than 8,192: -c leaves so many tokens for one request"),
        ({"parallel": 4}, 2048, 4, ""),
        ({"parallel": 4}, 2049, 1, "a context of 2,049 is more than 2,048: -c leaves so many tokens for each slot"),
        ({"parallel": 4, "kv_unified": True}, 4096, 3, "12,288 tokens of all requests are more than 8,192"),
    ],
)
def test_a_cache_of_a_size_is_shared_by_all_requests(
    flags: dict[str, Any], context: int, concurrency: int, why: str
) -> None:
    """No cell of a map and no answer says that more tokens fit than -c has cells, one started server or many."""
    found, program, gpu = subject("qwen3-0.6b"), engine("llama.cpp"), [find("h100-sxm")]
    job = LlamaCppJob(ctx_size=8192, format="q8_0", **flags)
    asked = replace(job, context=context, concurrency=concurrency)
    verdict = serve(found, program, asked, gpu).verdict
    assert verdict is not None
    assert verdict.fits == (not why)
    assert why in verdict.sentence
    cells = serve_map(found, program, job, gpu, [context], [concurrency]).status
    assert STATUSES[cells[0][0]] == ("refused" if why else "fits")
