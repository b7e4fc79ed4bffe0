"""A command line that starts an engine, as people paste it, read into an engine, a model and a job.

It may begin with assignments, sudo or `docker run`, go on over several lines, hold comments, and end in a pipe. What it
says is read by the engine's own rules (flags.py): nothing is passed over in silence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from oomph.engines import ENGINES, engine
from oomph.engines.base import Engine, ServeJob
from oomph.engines.flags import MOST_LETTERS, SHOWN, read_environment, read_flags
from oomph.errors import UsageError, close_matches

WRAPPERS = (("sudo",), ("env",), ("exec",), ("nohup",), ("time",), ("export",), ("set",), ("uv", "run"), ("uvx",))
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,99})=(.*)", re.DOTALL)
PYTHON = re.compile(r"python(\d(\.\d+)?)?(\.exe)?")
VERSION = re.compile(r"v?(\d+(\.\d+)+)")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
RUN = (("docker", "run"), ("docker", "container", "run"), ("podman", "run"))
EXEC = (("docker", "exec"), ("docker", "container", "exec"), ("podman", "exec"))
# Options of `docker run` without a value; all others have one.
BARE = frozenset(
    {"-d", "--detach", "-i", "--interactive", "-t", "--tty", "-it", "-ti", "-itd", "-dit", "--rm", "--init"}
)
BARE |= {"--privileged", "-P", "--publish-all"}
MOST_VISIBLE = 1024


@dataclass(frozen=True)
class CommandLine:
    """What a command line says.

    `visible` are the numbers of the GPUs it may see, None if it does not say; `passed_over` the flags and variables
    that move no memory.
    """

    engine: Engine
    model: str | None
    job: ServeJob
    visible: tuple[int, ...] | None = None
    passed_over: tuple[str, ...] = ()


def read_text(text: str) -> CommandLine:
    """Return what a pasted text says: one command that starts an engine, among others that do not.

    Raises OomphError for a text without such a command, or with something that is not modelled.
    """
    if len(text) > MOST_LETTERS:
        raise UsageError(f"That text has {len(text)} letters.", f"Paste the command alone, at most {MOST_LETTERS}.")
    commands = list(_commands(text))
    broken = next((command[0] for command in commands if command[0].startswith("-")), None)
    if broken:
        raise UsageError(f"A line begins with {broken[:SHOWN]!r}.", "End the line before it with a backslash.")
    exported = [word for command in commands if command[0] in ("export", "set") for word in command[1:]]
    starting = [command for command in commands if _started(_bare(command)[1])]
    if len(starting) > 1:
        raise UsageError(f"That are {len(starting)} commands that start an engine.", "Paste one of them.")
    return read_words([*exported, *(starting or commands or [[]])[0]])


def read_words(words: Sequence[str]) -> CommandLine:
    """Return what a command says whose words are already apart."""
    said, words = _bare(words)
    started = _started(words)
    if started is None:
        raise not_read(words)
    program, version, inside, rest = started
    said = {**inside, **said}
    job = program.job(version=version)
    visible = _visible(said)
    job, variables = read_environment(program, {name: said[name] for name in said if name not in VISIBLE}, job)
    read = read_flags(program, rest, job)
    model = read.model or (read.words[0] if read.words else None)
    stray = read.words[0 if read.model else 1 :]
    if stray:
        raise UsageError(f"{stray[0][:SHOWN]!r} is one word too many.", "Quote what belongs together.")
    return CommandLine(program, model, read.job, visible, (*variables, *read.passed_over))


def starts(words: Sequence[str]) -> bool:
    """Tell whether words are a command that starts an engine, rather than flags of one."""
    return bool(words) and not words[0].startswith("-") and _started(_bare(words)[1]) is not None


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a text as words, without comments and redirections."""
    text = re.sub(r"[\\^`][ \t]*\r?\n", " ", text.strip())  # what goes on in the next line, in three shells
    for line in text.splitlines():
        line = re.sub(r"^\s*[$>#%]\s+(?=\S)", "", line) if line.lstrip()[:1] != "#" else ""
        yield from filter(None, _split(_uncommented(line)))


def _uncommented(line: str) -> str:
    """Return a line up to a # that begins a word outside quotes."""
    for found in re.finditer(r"(?<!\S)#", line):
        before = line[: found.start()]
        if before.count("'") % 2 == 0 and before.count('"') % 2 == 0:
            return before
    return line


def _split(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise UsageError(f"That is no command line: {str(error).lower()}.", "Check its quotes.") from None
    command: list[str] = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token[0] in "<>":  # a file, or the number of another stream
            skip = True
            if command and command[-1] in ("1", "2"):
                command.pop()
        elif set(token) <= set("|&;()"):
            yield command
            command = []
        else:
            command.append(token)
    yield command


def _bare(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the assignments before a command, and the command without what it is wrapped in."""
    said: dict[str, str] = {}
    left = list(words)
    while left:
        assigned = ASSIGNMENT.fullmatch(left[0])
        wrapper = next((each for each in WRAPPERS if tuple(left[: len(each)]) == each), None)
        if assigned:
            said[assigned[1]] = assigned[2]
            left = left[1:]
        elif wrapper:
            left = left[len(wrapper) :]
            while left and left[0] in ("-E", "-"):
                left = left[1:]
        else:
            break
    return said, left


Started = tuple[Engine, str, dict[str, str], list[str]]


def _started(words: Sequence[str]) -> Started | None:
    """Return the engine that a command starts, its version, what is set inside a container, and the flags."""
    run = next((each for each in RUN if tuple(words[: len(each)]) == each), None)
    if run:
        return _contained(words[len(run) :])
    inside = next((each for each in EXEC if tuple(words[: len(each)]) == each), None)
    if inside:
        left, said = _docker_options(words[len(inside) :])
        return _inner(left[1:], "", said)
    named = [_program(word) for word in words[:1]] + list(words[1:])
    for name in ENGINES:
        found = engine(name)
        for start in found.starts:
            if start[0] != "docker" and tuple(named[: len(start)]) == start:
                return found, "", {}, list(words[len(start) :])
    return None


def _program(word: str) -> str:
    """Return a program's name without its folder; every python is python.

    A fork whose programs are called like those it was made of is told by its folder.
    >>> _program("./build/bin/llama-server"), _program("~/ik_llama.cpp/build/bin/llama-server")
    ('llama-server', 'ik_llama.cpp/llama-server')
    """
    path = PurePosixPath(word.replace("\\", "/"))
    name = path.name.removesuffix(".exe")
    if any(part.startswith("ik_llama") for part in path.parts[:-1]):
        return f"ik_llama.cpp/{name}"
    return "python" if PYTHON.fullmatch(name) else name


def _contained(words: Sequence[str]) -> Started | None:
    """Return what an image starts: the engine it is of, or what the words behind it say."""
    left, said = _docker_options(words)
    if not left:
        return None
    image, tag, inside = _image(left[0]), left[0].rpartition("/")[2].partition(":")[2], left[1:]
    version = found[1] if (found := VERSION.match(tag)) else ""
    own = _inner(inside, version, said)
    if own:
        return own
    for name in ENGINES:
        found_engine = engine(name)
        if ("docker", image) in found_engine.starts:
            return found_engine, version, said, inside
    return None


def _inner(words: Sequence[str], version: str, said: dict[str, str]) -> Started | None:
    """Return what a command inside a container starts; a container in a container is none."""
    assigned, words = _bare(words)
    own = _started(words) if words[:1] not in (["docker"], ["podman"]) else None
    return (own[0], version, {**said, **assigned}, own[3]) if own else None


def _docker_options(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words behind docker's own options, and what these set."""
    left, said = list(words), {}
    while left and left[0].startswith("-"):
        name, joined, value = left.pop(0).partition("=")
        if name in BARE:
            continue
        value = value if joined else left.pop(0) if left else ""
        assigned = ASSIGNMENT.fullmatch(value)
        if name in ("-e", "--env") and assigned:
            said[assigned[1]] = assigned[2]
        elif name == "--gpus" and "device=" in value:
            said[VISIBLE[0]] = value.strip("\"'").removeprefix("device=")
    return left, said


def _image(name: str) -> str:
    """Return an image's name without its tag.

    >>> _image("vllm/vllm-openai:v0.9.1"), _image("localhost:5000/vllm")
    ('vllm/vllm-openai', 'localhost:5000/vllm')
    """
    name = name.partition("@")[0]
    return name.removesuffix(name.rpartition("/")[2]) + name.rpartition("/")[2].partition(":")[0]


def _visible(said: dict[str, str]) -> tuple[int, ...] | None:
    """Return the numbers of the GPUs that variables leave to be seen; None if they do not say."""
    for name in VISIBLE:
        text = said.get(name, "all").strip()
        if text in ("all", ""):
            continue
        words = text.split(",")
        if len(words) > MOST_VISIBLE:
            raise UsageError(f"{name} names {len(words)} GPUs.", f"Name at most {MOST_VISIBLE}.")
        # Others are names of single cards (GPU-8932f937): how many they are is all that counts.
        return tuple(int(word) if re.fullmatch(r"\s*[0-9]{1,4}\s*", word) else -1 for word in words)
    return None


def not_read(words: Sequence[str]) -> UsageError:
    """Return the error of words that start no engine that is known."""
    known = list(dict.fromkeys(" ".join(start) for name in ENGINES for start in engine(name).starts))
    shown = " ".join(words[:3])[:SHOWN]
    problem = f"oomph reads no command that begins with {shown!r}." if words else "There is no command to read."
    usual = ", ".join(" ".join(engine(name).starts[0]) for name in ENGINES)
    first = close_matches(words[0][:SHOWN], [each for each in known if " " not in each]) if words else ""
    return UsageError(problem, close_matches(shown, known) or first or f"Some that it reads: {usual}; docs/serve.md.")
