"""A process of its own for code that is not ours: limits on time and memory, offline, no secrets, an empty folder.

The other process reads one question from standard input (JSON) and writes messages to standard output, one JSON
object a line. Of whatever else it prints only the last line is kept, in case it ends without an answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

MAX_ANSWER = 256 * 2**20  # characters of all messages together
SAFE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
TAIL, LINE = 4096, 200  # characters kept of what a process prints beside its answer, and of its last line


class Died(Exception):  # noqa: N818  (what happened, not whose fault)
    """The other process ended without the message that was waited for; `said` is the last line it printed."""

    def __init__(self, returncode: int, too_slow: bool, said: str = "") -> None:
        super().__init__(returncode)
        self.returncode = returncode
        self.too_slow = too_slow
        self.said = said

    @property
    def how(self) -> str:
        """How it ended, in words: "exit 1, after: ImportError: ..."."""
        return f"exit {self.returncode}, after: {self.said}" if self.said else f"exit {self.returncode}"


def messages(module: str, question: Any, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what `python -m module` answers to a question, as it comes.

    Raises Died when it takes longer than `seconds` in all, writes too much or no JSON, or fails.
    """
    with Worker(module) as worker:
        yield from worker.ask(question, seconds)


class Worker:
    """`python -m module`, started at once so that it can do its imports while others work, and asked one question.

    `arguments` are the words after the module's name. The GPU is hidden from it unless `gpu` is set. Leaving the
    context ends the process.
    """

    def __init__(self, module: str, arguments: Sequence[str] = (), *, gpu: bool = False) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in SECRET} | SAFE | _search_path()
        self._empty = tempfile.TemporaryDirectory()
        self._late = threading.Event()
        self._asked = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._empty.name,
            env=environment if gpu else environment | NO_GPU,
            encoding="utf-8",
            errors="replace",
        )
        assert self._process.stderr is not None  # PIPE was asked for
        self._said = _Tail(self._process.stderr)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Any, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield the answers to the one question this process gets; raises Died as `messages` does."""
        process = self._process
        assert process.stdin is not None  # PIPE was asked for
        assert process.stdout is not None
        clock = threading.Timer(seconds, self._stop)
        clock.daemon = True
        clock.start()
        self._asked = True
        try:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(question))
            yield from _parsed(process.stdout)
        except ValueError:  # not JSON: cut off or not ours
            process.kill()
        finally:
            clock.cancel()
            self.close()
        if process.returncode:
            raise Died(process.returncode, self._late.is_set(), self._said.last_line())

    def close(self) -> None:
        """End the process if it still runs, and remove its folder."""
        if not self._asked:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):
                    pipe.close()
        _ended(self._process)
        self._empty.cleanup()

    def _stop(self) -> None:
        self._late.set()
        self._process.kill()


class _Tail(threading.Thread):
    """The end of what a process prints beside its answer, read away so that it never waits for a reader."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._text = pipe, ""
        self.start()

    def run(self) -> None:
        """Read until the process, and whoever it started, has closed its end."""
        with suppress(ValueError, OSError), self._pipe:
            while read := self._pipe.read(TAIL):
                self._text = (self._text + read)[-TAIL:]

    def last_line(self) -> str:
        """Return the last line that is not empty, once the process has ended."""
        self.join(timeout=1)
        return next((line.strip()[:LINE] for line in reversed(self._text.splitlines()) if line.strip()), "")


def _search_path() -> dict[str, str]:
    """Return PYTHONPATH with folders that the other process finds too, which works in another one."""
    path = os.environ.get("PYTHONPATH")
    folders = [os.path.abspath(each) for each in path.split(os.pathsep) if each] if path else []
    return {"PYTHONPATH": os.pathsep.join(folders)} if folders else {}


def _parsed(out: IO[str]) -> Iterator[dict[str, Any]]:
    left = MAX_ANSWER
    while line := out.readline(left + 1):
        left -= len(line)
        message = json.loads(line) if left >= 0 else None
        if not isinstance(message, dict):
            raise ValueError
        yield message


def _ended(process: subprocess.Popen[str]) -> int:
    """Return the exit code of a process that has no more to say, ending it if it stays."""
    try:
        return process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def limit_memory(n_bytes: int) -> None:
    """Cap this process at what it has now and `n_bytes` more, where the system can."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):  # not Linux: the time limit remains
        return


def serve(answer: Callable[[Any, Callable[[dict[str, Any]], None]], dict[str, Any]]) -> None:
    """Be the other process: answer(question, send) returns the last message and may send others before it.

    Any exception becomes the message {"error": its one-line text}.
    """
    channel = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(channel, "w", encoding="utf-8") as out:

        def send(message: dict[str, Any]) -> None:
            print(json.dumps(message, separators=(",", ":")), file=out, flush=True)

        try:
            last = answer(json.loads(sys.stdin.buffer.read()), send)
        except (Exception, RecursionError, MemoryError) as error:
            last = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        send(last)
