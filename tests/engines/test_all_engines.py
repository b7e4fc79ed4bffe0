"""What holds of every engine that is there: its words are read back, its maps and largest values are single answers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from oomph.answer import Subject, subject
from oomph.devices import Device, find
from oomph.engines import ENGINES, engine
from oomph.engines.base import Engine, ServeJob
from oomph.engines.command_line import read_words
from oomph.engines.flags import read_environment, read_flags, spellings
from oomph.engines.maps import STATUSES, serve_map
from oomph.engines.serving import serve
from oomph.engines.solve import FIELDS, largest
from oomph.errors import OomphError
from oomph.sources.catalogue import entries

# Dense, windowed, of experts with one latent vector per token, with states beside keys and values.
MODELS = ("llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite", "qwen3-next-80b-a3b")
DEVICES = {"mlx": ("m4-max-64gb", "m2-ultra-192gb")}
CARDS = ("rtx-3090", "a100-80gb-sxm", "h200")
# Each of their deployments plays graphs, which takes a tenth of a second: fewer jobs.
PLAYED = ("llama.cpp", "ik_llama.cpp", "ollama", "lm-studio")
ONE_IN = 10
FEW, MANY = 12, 200  # random jobs of all engines together


@cache
def _model(name: str) -> Subject:
    return subject(name)


def _jobs(most: int) -> Iterator[tuple[Engine, Subject, ServeJob, list[Device]]]:
    """Yield random jobs that their engines take."""
    rng = random.Random(most)
    yielded = 0
    while yielded < most:
        name = rng.choice(sorted(ENGINES))
        if name in PLAYED and rng.randrange(ONE_IN):
            continue
        program, found = engine(name), _model(rng.choice(MODELS))
        devices = [find(rng.choice(DEVICES.get(program.name, CARDS)))]
        job = replace(program.job(), context=rng.randint(1, 8192), concurrency=rng.randint(1, 12))
        yielded += 1
        try:
            program.deploy(found, job, devices)
        except OomphError:
            continue
        yield program, found, job, devices


def _verdict(program: Engine, found: Subject, job: ServeJob, devices: list[Device]) -> Any:
    return serve(found, program, job, devices).verdict


def _hold_largest(most: int) -> None:
    rng = random.Random(most)
    bound = 0
    for program, found, job, devices in _jobs(most):
        layers = next((name for name in FIELDS["gpu-layers"] if hasattr(job, name)), None)
        over = rng.choice(["context", "concurrency"] + ["gpu-layers"] * bool(layers))
        limit = largest(found, program, job, devices, over)

        def at(value: int, job: ServeJob = job, over: str = over, field: Any = layers) -> ServeJob:
            if over == "context":
                return job.with_context(value)
            changed: Any = {field if over == "gpu-layers" else over: value}
            return replace(job, **changed)

        asked = (program.name, found.model.name, job, over)
        assert limit.at is None or _verdict(program, found, at(limit.value), devices).fits, asked
        if limit.bound == "memory":
            following = limit.value + 1 if limit.at else int(over != "gpu-layers")
            assert not _verdict(program, found, at(following), devices).fits, asked
            bound += 1
    assert bound


def test_largest_values_fit_and_one_more_does_not() -> None:
    """Context, requests, layers; whatever the engine and the model."""
    _hold_largest(FEW)


@pytest.mark.slow
def test_largest_values_of_many_jobs() -> None:
    """The same of 200 jobs."""
    _hold_largest(MANY)


def test_maps_say_what_single_answers_say() -> None:
    """A map is one deployment, each answer its own; they agree in every cell."""
    pytest.importorskip("numpy")
    rng = random.Random(1)
    for program, found, job, devices in _jobs(FEW):
        contexts, concurrencies = [rng.randint(1, 9000) for _ in range(2)], [rng.randint(1, 200) for _ in range(2)]
        made = serve_map(found, program, job, devices, contexts, concurrencies)
        for row, context in enumerate(contexts):
            for column, concurrency in enumerate(concurrencies):
                single = replace(job.with_context(context), concurrency=concurrency)
                said, asked = STATUSES[made.status[row][column]], (program.name, found.model.name, single)
                try:
                    verdict = _verdict(program, found, single, devices)
                except OomphError:
                    assert said == "refused", asked
                    continue
                assert said == verdict.status or (said == "refused" and "is more than" in verdict.sentence), asked


@pytest.mark.parametrize("name", [name for name in ENGINES if engine(name).starts])
def test_the_command_of_a_job_is_read_back(name: str) -> None:
    """The words that an answer ends with start the engine, which then serves what was asked about."""
    program, found = engine(name), _model("llama-3.1-8b")
    devices = [find(DEVICES.get(name, CARDS)[0])]
    for job in (program.job(), program.job().with_context(4096)):
        read = read_words(program.command("org/name", job))
        assert (read.engine.name, read.model, read.passed_over) == (name, "org/name", ())
        with contextlib.suppress(OomphError):
            asked, again = (program.deploy(found, each, devices) for each in (job, read.job))
            assert bool(asked.fits(4096, 1)) == bool(again.fits(4096, 1))


# Fields that a command cannot say: only a Modelfile, a model's settings or the system do; -kvu goes with -np.
UNSAID = {
    "llama.cpp": {"kv_unified"},
    "ollama": {"num_gpu", "num_batch", "main_gpu", "use_mmap"},
    "lm-studio": {"k_cache", "v_cache", "flash_attention", "offload_kv_cache", "batch", "mmap"},
    "mlx": {"prompt", "wired_limit_mb"},
    "exllamav2": {"cache_size", "cache_mode", "max_batch_size", "autosplit_reserve"},
}
SOME = (True, False, 3, 4096, 0.5, (1, 2), "3", "q8_0", "off", "none", "3,1", "512", "x=CPU", "bfloat16", "fp8",
        "llama-3.2-1b", "draft-simple", "TRITON_ATTN", "flashinfer",
        "expandable_segments:True", '{"image": 2}', '{"mode": 3}',
        '{"method": "ngram", "num_speculative_tokens": 3}')  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ENGINES if engine(name).starts])
def test_no_flag_is_lost_in_a_command(name: str) -> None:
    """Each flag that is not as the engine has it by itself is among the words, and read back as the same."""
    program = engine(name)
    flags = {each.name: each for each in fields(program.job) if each.metadata.get("flags")}
    said = {field: each for field, each in flags.items() if field not in UNSAID.get(name, ())}
    values = spelled_values(program)
    tried = 0
    for field, each in said.items():
        for value in (value for value in values[field] if value != each.default):
            changed: Any = {field: value}
            with contextlib.suppress(OomphError):
                job = replace(program.job(), **changed)
                again = read_words(program.command("org/name", job)).job
                assert str(getattr(again, field)) == str(value), (field, value)
                tried += 1
                break
    assert tried > len(said) / 2


def spelled_values(program: Engine) -> dict[str, list[Any]]:
    """Return for each field of a job values of its type."""
    found: dict[str, list[Any]] = {}
    for spelling in spellings(program.job).values():
        hint = spelling.hint
        origin = get_origin(hint)
        kinds = {*get_args(hint)} if origin in (Union, UnionType) else {origin or hint}
        choices = [*get_args(hint)] if origin is Literal else []
        found[spelling.field] = choices or [value for value in SOME if type(value) in kinds]
    return found


HOSTILE = ("-1", "999999999999999", "x")
MORE_HOSTILE = (*HOSTILE, "0", "999999999", "nan", "", "{}", "0.5", "1,2,3", "q8_0")


@pytest.mark.parametrize("name", ENGINES)
def test_a_hostile_value_of_a_flag_is_answered(name: str) -> None:
    """An answer or an OomphError, on a device and on none; numbers of requests that no machine serves too."""
    _answer(name, HOSTILE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_more_hostile_values_are_answered(name: str) -> None:
    """The same of all that is no number, of fractions and of lists."""
    _answer(name, MORE_HOSTILE)


def _answer(name: str, values: tuple[str, ...]) -> None:
    program, found = engine(name), _model("llama-3.1-8b")
    devices = [find(DEVICES.get(name, CARDS)[0])]
    jobs = [
        lambda length=length: replace(program.job().with_context(length), concurrency=length) for length in (1, 10**15)
    ]
    for flag, spelling in spellings(program.job).items():
        for value in values if spelling.thrown is None else ("true",):
            if flag.startswith("-"):
                jobs.append(lambda word=f"{flag}={value}": read_flags(program, [word]).job)
            else:
                said = {flag: value}
                jobs.append(lambda said=said: read_environment(program, said, program.job())[0])
    for make in jobs:
        for there in (devices, []):
            with contextlib.suppress(OomphError):
                assert serve(found, program, make(), there).total_bytes >= 0


@pytest.mark.parametrize("name", ENGINES)
def test_a_flag_is_one_thing(name: str) -> None:
    """Read, harmless, refused or the model's name, never two of them; and a format that is advised exists."""
    program = engine(name)
    read = {flag for flag in spellings(program.job) if flag.startswith("-")}
    harmless = {flag.rstrip("+=") for flag in program.harmless}
    models = {flag.rstrip(":") for flag in program.models}
    kinds = [read, harmless, set(program.refused), models]
    for at, kind in enumerate(kinds):
        for other in kinds[at + 1 :]:
            assert not kind & other
    from oomph import formats

    assert all(formats.get(each) for each in program.formats)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENGINES if name not in PLAYED])
def test_a_model_of_every_type(name: str) -> None:
    """The engine answers or refuses; what requests take is what it shows, of arrays what it is of numbers."""
    np = pytest.importorskip("numpy")
    program, types = engine(name), {}
    for entry in entries():
        config = entry["config"]
        types.setdefault((config["model_type"], "quantization_config" in config), entry["name"])
    contexts, concurrencies = np.meshgrid([1, 255, 257, 4096, 30000], [1, 2, 7])
    answered = 0
    for found in map(_model, types.values()):
        devices = [find(DEVICES.get(name, CARDS)[-1])]
        try:
            deployed = program.deploy(found, program.job().with_context(4096), devices)
        except OomphError:
            continue
        answered += 1
        for share in deployed.shares:
            alone = [int(share.needs(int(c), int(n))) for c, n in zip(contexts.flat, concurrencies.flat, strict=True)]
            assert list(np.broadcast_to(share.needs(contexts, concurrencies), contexts.shape).flat) == alone, found
            assert sum(item.n_bytes for item in share.held(257, 3)) == share.needs(257, 3), found
            assert all(0 <= item.n_bytes <= item.safe_bytes for item in (*share.items, *share.held(257, 3))), found
    assert answered > 10
