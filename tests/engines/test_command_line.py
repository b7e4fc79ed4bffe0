"""Commands as people paste them: one job however it is written, and nothing passed over in silence."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.engines.command_line import CommandLine, read_text, read_words, starts
from oomph.engines.flags import MOST_WORDS, read_flags, spelled
from oomph.errors import OomphError, UnsupportedError, UsageError
from tests.engines.fakes import PAGED, SPLIT, PagedJob, SplitJob, fakes

pytestmark = pytest.mark.usefixtures("fakes")
__all__ = ["fakes"]

JOB = PagedJob(longest=32768, utilization=0.95, tensor_parallel=2)
WRITTEN = {
    "plain": "paged serve org/model --max-model-len 32768 --gpu-memory-utilization 0.95 -tp 2",
    "joined": "paged serve --max-model-len=32K --gpu_memory_utilization=.95 org/model --tensor-parallel-size=2",
    "module": "/usr/bin/python3.11 -m paged.api_server --model org/model --max-model-len 32K"
    " --gpu-memory-utilization 0.95 -tp 2",
    "lines": "$ paged serve org/model \\\n  --max-model-len 32K \\  \n --gpu-memory-utilization 0.95 -tp 2  # both",
    "script": "# first\npip install paged && cd /x\npaged serve 'org/model' --max-model-len \"32K\" -tp 2"
    " --gpu-memory-utilization 0.95 2>&1 | tee log.txt &",
    "wrapped": "sudo -E nohup env HF_TOKEN=x paged serve org/model --trust-remote-code --port 80 -tp 2"
    " --served-model-name a b --max-model-len 32768 --gpu-memory-utilization 0.95",
    "docker": "docker run --runtime nvidia --gpus all -v ~/.cache:/root -p 80:80 --ipc=host --rm -it paged/paged-openai"
    " --model org/model --max-model-len 32K -tp 2 --gpu-memory-utilization 0.95",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_one_job_however_it_is_written(name: str) -> None:
    """Wrapped, over lines, quoted, commented, piped, in a container."""
    found = read_text(WRITTEN[name])
    assert (found.engine.name, found.model, found.job) == ("paged", "org/model", JOB)


def test_what_a_container_says() -> None:
    """Its tag is the version, its environment the command's, its devices those that are seen."""
    line = (
        """docker run --gpus '"device=1,3"' -e PAGED_ESTIMATE_GRAPHS=0 --env=HF_TOKEN=$T paged/paged-openai:v0.9.1-x"""
    )
    job = PagedJob(version="0.9.1", graphs=False)
    assert read_text(f"{line} --model m") == CommandLine(PAGED, "m", job, (1, 3), ("HF_TOKEN",))
    own = read_text("docker run --gpus all some/image split-server -hf a/b:q4 -ngl -1 --no-mmap")
    assert (own.engine, own.model, own.job) == (SPLIT, "a/b:q4", SplitJob(gpu_layers=-1, mmap=False))


def test_a_model_may_be_a_file_in_a_repository() -> None:
    """As llama-server is told by two flags."""
    assert read_text("split-server -hf org/name -hff x-q4.gguf --jinja").model == "org/name:x-q4.gguf"
    assert read_text("split-server --model /models/x.gguf").model == "/models/x.gguf"


def test_variables_before_a_command() -> None:
    """Which cards are seen, and what the engine reads; exported ones too."""
    found = read_text(
        "export PAGED_ESTIMATE_GRAPHS=false\nCUDA_VISIBLE_DEVICES=0,2,GPU-8932f937 PAGED_LOG=1 paged serve m"
    )
    assert (found.visible, found.job, found.passed_over) == ((0, 2, -1), PagedJob(graphs=False), ("PAGED_LOG",))
    with pytest.raises(UsageError, match="PAGED_ESTIMATE_GRAPHS"):
        read_text("PAGED_ESTIMATE_GRAPH=1 paged serve m")


def test_switches_lists_and_json() -> None:
    """Both forms of a switch, numbers behind each other, objects whole and key by key."""
    words = "--no-enable-chunked-prefill --enforce-eager --cudagraph-capture-sizes 1 2 4"
    assert read_flags(PAGED, words.split()).job == PagedJob(chunked=False, eager=True, capture=(1, 2, 4))
    assert read_flags(PAGED, ["--enforce-eager=false"]).job == PagedJob()
    whole = read_flags(PAGED, ["--speculative-config", '{"method": "ngram"}'])
    apart = read_flags(PAGED, ["--speculative-config.method", "ngram"])
    assert whole.job == apart.job
    deep = read_flags(PAGED, ["--speculative-config.a.b=3", "--speculative-config.a.c=x"])
    assert deep.job.speculation == '{"a": {"b": 3, "c": "x"}}'


def test_what_is_typed_last_wins_and_the_rest_stays() -> None:
    """As argparse does; a job that is given is changed."""
    found = read_flags(PAGED, ["-tp", "2", "-tp", "4"], PagedJob(eager=True))
    assert found.job == PagedJob(tensor_parallel=4, eager=True)


def test_fields_are_spelled_as_they_are_read() -> None:
    """The words of a field give back its value."""
    for field, value in (
        ("tensor_parallel", 2),
        ("eager", True),
        ("chunked", False),
        ("kv_cache_dtype", "fp8"),
        ("capture", (1, 2)),
    ):
        assert getattr(read_flags(PAGED, spelled(PAGED, field, value)).job, field) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("paged serve m --max-model-length 8", "--max-model-len"),
        ("paged serve m --kv-cache-dtype fp9", "Did you mean fp8"),
        ("paged serve m --max-model-len many", "not a whole number"),
        ("paged serve m --max-model-len", "has no value"),
        ("paged serve m --max-model-len -tp 2", "has no value"),
        ("paged serve m -tp $TP", "your shell"),
        ("paged serve m --enforce-eager=perhaps", "neither true nor false"),
        ("paged serve m --gpu-memory-utilization 90", "a share of 1"),
        ("paged serve m n", "one word too many"),
        ("paged serve m --speculative-config x --speculative-config.a 1", "no JSON object"),
        ("paged serve m; split-server -m n", "2 commands"),
        ("page serve m", "paged serve"),
        ("split-server -m x -c 8k", "Write 8192"),
        ("paged serve 'm", "quotes"),
        ("paged serve m\n  --max-model-len 8192", "backslash"),
        ("", "no command"),
        ("docker run", "docker run"),
        ("docker run other/image x", "begins with"),
    ],
)
def test_what_is_wrong_is_said(line: str, words: str) -> None:
    """The problem and the way out, never a traceback, never silence."""
    with pytest.raises(UsageError) as caught:
        read_text(line)
    assert words in str(caught.value)


def test_what_is_not_modelled_is_refused_by_name() -> None:
    """A flag that moves memory has its reason, and its own exit code."""
    with pytest.raises(UnsupportedError, match=r"cpu-offload-gb.*machine's memory"):
        read_text("paged serve m --cpu-offload-gb 4")
    with pytest.raises(UnsupportedError, match="-O is not modelled"):
        read_text("paged serve m -O3")


def test_flags_are_no_command() -> None:
    """What stands behind -- is told apart by its first words."""
    assert starts(["A=1", "paged", "serve", "m"])
    assert not starts(["--tp=2"])
    assert not starts([])


def test_no_line_is_too_long() -> None:
    """Bounded in letters and words."""
    with pytest.raises(UsageError, match="letters"):
        read_text("x" * 10**6)
    with pytest.raises(UsageError, match="words"):
        read_words(["paged", "serve", *["--enforce-eager"] * (MOST_WORDS + 1)])


PIECES = (
    *("paged", "serve", "docker", "run", "-e", "A=", "--gpus", "-tp", "2", "--max-model-len", "32K", "'", '"', "\\\n"),
    *("--speculative-config.a", "{", "#", "|", "2>&1", "$X", "paged/paged-openai:v1", "=", "--"),
    "CUDA_VISIBLE_DEVICES=9999999",
)


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.text(max_size=8), st.booleans())
def test_any_text_is_answered(pieces: list[str], rest: str, named: bool) -> None:
    """A command line or an OomphError, nothing else."""
    with contextlib.suppress(OomphError):
        assert read_text(" ".join(["paged serve"] * named + [*pieces, rest])).engine in (PAGED, SPLIT)


def test_what_runs_in_a_container_that_is_there() -> None:
    """docker exec names a container where docker run names an image."""
    found = read_text("docker exec -it -e PAGED_LOG=1 box paged serve m -tp 2")
    assert (found.engine, found.model, found.job) == (PAGED, "m", PagedJob(tensor_parallel=2))
    with pytest.raises(UsageError, match="begins with 'docker exec"):
        read_text("docker exec -it box bash")


def test_containers_in_containers_end() -> None:
    """They were followed until Python's stack was full."""
    with pytest.raises(UsageError, match="begins with"):
        read_words(["docker", "run", "a"] * (MOST_WORDS // 3))
