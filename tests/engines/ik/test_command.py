"""ik_llama.cpp's command line, where it means more than one word at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomph.answer import resolve, subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.flags import read_flags, spellings
from oomph.engines.ik import IkJob, IkServed
from oomph.engines.llamacpp.served import known
from oomph.errors import UnsupportedError, UsageError
from oomph.header import Source
from oomph.units import MIB
from tests.engines.ik.test_compute import CONFIGS, HUNDREDTH


@pytest.mark.parametrize("name", ["llama.cpp", "ik_llama.cpp"])
def test_patterns_of_tensors_add_up(name: str) -> None:
    """-ot may be said as often as there are patterns; the engines ask them in that order."""
    read = read_flags(engine(name), ["-ot", "blk.0.ffn=CPU", "-c", "4096", "-ot", "exps=CPU"])
    assert read.job.override_tensor == "blk.0.ffn=CPU,exps=CPU"  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["llama.cpp", "ik_llama.cpp"])
def test_a_pattern_that_no_tensor_has_is_told(name: str) -> None:
    """The servers pass over it in silence; -cmoe of layers without experts is no such pattern."""
    program = engine(name)
    job = program.job(ctx_size=4096, format="q8_0", override_tensor="ffn_expert=CPU,ffn_down_exps=CPU", n_cpu_moe=2)  # type: ignore[call-arg]
    warnings = program.deploy(subject("deepseek-v2-lite"), job).warnings
    assert [each for each in warnings if "-ot" in each] == ["-ot ffn_expert: no tensor has that in its name"]


def test_the_first_pattern_that_a_name_has_counts() -> None:
    """Experts of first layers on the GPU, all others with the host, as users write it."""
    here, there = r"blk\.[0-2]\.ffn.*=CUDA0", "exps=CPU"
    held = {}
    for patterns in (f"{here},{there}", f"{there},{here}"):
        job = IkJob(ctx_size=4096, format="q8_0", override_tensor=patterns)
        share = engine("ik_llama.cpp").deploy(subject("qwen3-30b-a3b"), job, [find("h200")]).shares[0]
        held[patterns.partition("=")[0]] = share.items[0].n_bytes
    more, less = held.values()
    assert more > less


def test_a_gpu_that_is_not_there_is_refused() -> None:
    """Its number is among those of the GPUs that are used."""
    job = IkJob(ctx_size=4096, format="q8_0", override_tensor="exps=CUDA1")
    with pytest.raises(UsageError, match="CUDA1, of 1"):
        engine("ik_llama.cpp").deploy(subject("qwen3-30b-a3b"), job, [find("h200")])


NAMES = [line for line in Path(__file__).with_name("flags.txt").read_text().splitlines() if line.startswith("-")]


def test_every_flag_of_the_newest_build_is_known() -> None:
    """Some 360 names, each read, harmless or refused with what it does."""
    program = engine("ik_llama.cpp")
    harmless = {name.rstrip("=+") for name in program.harmless}
    models = {name.rstrip(":") for name in program.models}
    places = (set(spellings(program.job)), harmless, set(program.refused), models)
    assert len(NAMES) > 350
    assert [name for name in NAMES if sum(name in place for place in places) != 1] == []


def test_llama_cpps_own_flags_are_not_its() -> None:
    """What the other server has and this one has not is no word of its command, and no field to set."""
    for words in ("--fit on", "--fit-target 512", "-kvu", "--swa-full", "--spec-draft-model x", "--no-op-offload"):
        with pytest.raises((UsageError, UnsupportedError)):
            read_flags(engine("ik_llama.cpp"), words.split())
    with pytest.raises(UnsupportedError, match="mmproj"):
        IkJob(mmproj="mmproj.gguf")


# MiB of weights on GPUs with experts of some layers with the host: ik_llama.cpp 8337e4cd, its own code on GPUs that
# have a size and no memory, -ngl 99 -fa on -c 4096, models without data in Q8_0.
@pytest.mark.parametrize(
    ("model", "shares", "asked", "mib"),
    [
        ("qwen3moe", (1,), 2, [30.23]),
        ("qwen3moe", (1, 1), 2, [14.85, 15.38]),
        ("qwen3moe", (1, 2), 3, [7.77, 16.08]),
        ("qwen3moe", (1, 1, 1), 2, [14.15, 7.77, 8.31]),
        ("mixtral", (3, 1), 3, [32.11, 1.22]),
        ("deepseek2", (1,), 2, [29.12]),
        ("deepseek2", (1, 1), 3, [11.49, 11.26]),
        ("deepseek2", (1, 3), 1, [2.22, 33.28]),
        ("glm4moe", (1,), 1, [33.41]),
        ("glm4moe", (1, 1), 1, [16.82, 22.96]),
        ("glm4moe", (1, 2), 2, [2.97, 30.44]),
        ("glm4moe", (1, 1), 999, [4.07, 3.84]),
    ],
)
def test_experts_of_the_last_layers_stay_with_the_host(
    model: str, shares: tuple[int, ...], asked: int, mib: list[float]
) -> None:
    """Of one GPU the last layers that have experts, of several each one's part: dense layers count there, too."""
    found = resolve(Source(model, "config", CONFIGS[model]))
    job = IkJob(ctx_size=4096, gpu_layers=99, flash_attn="on", n_cpu_moe=asked)
    served = IkServed(*known(found, "q8_0"), job, tuple(map(float, shares)))
    ours = [served.loaded.gpu_bytes[gpu] / MIB for gpu in range(len(shares))]
    assert ours == pytest.approx(mib, abs=HUNDREDTH)


def test_what_is_not_said_is_as_the_build_has_it() -> None:
    """Newest builds fuse experts and keep one latent vector; those of July 2025 did so when they were asked."""
    assert IkJob().attention == (3, 256, True)
    assert IkJob(version="b3811").attention == (0, 0, False)
    assert IkJob(version="b3811", mla=2, fused_moe=True).attention == (2, 0, True)
    with pytest.raises(UnsupportedError, match="-ncmoe"):
        IkJob(version="b3811", n_cpu_moe=3).check_defaults()


def test_a_small_batch_of_scores_is_raised() -> None:
    """-amb 64 is 128 in newest builds, and that is said."""
    found, program = subject("deepseek-v2-lite"), engine("ik_llama.cpp")
    small, raised = (
        program.deploy(found, IkJob(ctx_size=65536, format="q8_0", attention_batch=mib), [find("h200")])
        for mib in (64, 128)
    )
    assert small.printed[:] == raised.printed[:]
    assert "-amb 64 is raised to 128, as the server does" in small.assumptions


def test_a_pasted_command() -> None:
    """As users of 2025 and of 2026 write it."""
    job = read_text(
        "CUDA_VISIBLE_DEVICES=0 ./ik_llama.cpp/build/bin/llama-server -m r1.gguf -fa -fmoe -rtr -mla 3 -amb 512 "
        "-ngl 99 -nkvo -ot 'blk\\.[0-2]\\.ffn.*=CUDA0' -ot exps=CPU -c 32768 -t 16 --no-context-shift -ser 7,1 -no-mmad"
    ).job
    assert isinstance(job, IkJob)
    assert (job.attention, job.repack, job.kv_offload, job.fused_sum) == ((3, 512, True), True, False, False)
    assert [device for _, device in job.ordered] == [0, -1]
