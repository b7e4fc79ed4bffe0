"""Models on the Hugging Face hub: config.json and the headers of the weight files, never the weights.

One request lists the repository and pins its commit, one fetches config.json, two each file's header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from oomph.errors import SourceError, UsageError
from oomph.header import Header, Source
from oomph.sources import catalogue, local, safetensors
from oomph.sources.choose import CONFIG, choose, pick_gguf
from oomph.sources.json_text import MAX_BYTES, parse_object
from oomph.sources.web import RemoteReader, Web

MAIN = "main"
WORKERS = 8  # files read at the same time
_REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_REF = re.compile(rf"(?P<repo>{_REPO})(?:@(?P<revision>[^\s:@]+))?(?::(?P<file>[^\s].*))?", re.ASCII)
_PAGE = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>{_REPO})"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]+))?)?/?(?::(?P<tag>[\w.-]+))?(?:[?#].*)?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubRef:
    """A repository of the hub, a revision of it (default: main), perhaps one GGUF file in it."""

    repo: str
    revision: str = MAIN
    file: str = ""


def parse_ref(ref: str) -> HubRef | None:
    """Return what `org/name[@revision][:file]` or the address of a hub page means; None if it is neither.

    >>> parse_ref("org/name@v1:Q4_K_M")
    HubRef(repo='org/name', revision='v1', file='Q4_K_M')
    """
    found = _PAGE.fullmatch(ref) or _REF.fullmatch(ref)
    if found is None or ".." in ref or "--" in found["repo"]:
        return None
    file = found["file"] or ""
    if found.re is _PAGE and not file.endswith(".gguf"):
        file = found["tag"] or ""  # the page of a config.json or a shard means the model
    return HubRef(found["repo"], found["revision"] or MAIN, file)


def load(ref: HubRef, *, offline: bool = False, timeout: float | None = None) -> Source:
    """Return the model in a repository; offline, the copy of it in huggingface_hub's cache."""
    from huggingface_hub import constants

    try:
        if offline or constants.HF_HUB_OFFLINE:
            return _cached(ref)
        return _Repo(ref, Web(ref.repo, timeout)).source()
    except SourceError as error:
        known = None if ref.file else catalogue.find(ref.repo.rpartition("/")[2])
        copied = None if known or ref.file else catalogue.copied(ref.repo)
        if known is not None:
            what = f"The catalogue has {known.name}, by its name the same model."
        elif copied is not None:
            what = f"The catalogue has {copied}, of which it is a copy by its name: --format says how that is stored."
        else:
            raise
        raise SourceError(error.problem, f"{error.fix} {what}".strip()) from error


class _Repo:
    """A repository that is being read: what it is called, its connection, the commit it is pinned to."""

    def __init__(self, ref: HubRef, web: Web) -> None:
        self.ref = ref
        self.web = web
        self.commit = ref.revision

    def source(self) -> Source:
        """Return the model in the repository."""
        names = self._list()
        repo = self.ref.repo
        if self.ref.file:
            return self._gguf(pick_gguf(names, self.ref.file, repo))
        choice = choose(names, repo, f"{repo}:FILE.gguf")
        if choice.gguf:
            return self._gguf(choice.gguf)
        config = self._json(CONFIG) if choice.config else None
        header = None
        if choice.index or choice.safetensors:
            index = self._index(choice.index) if choice.index else None
            files = index.files if index else choice.safetensors
            missing = sorted(set(files) - set(names))
            if missing:
                raise SourceError(f"{missing[0]} is missing in {repo}.", "The repository is not complete.")
            headers = self._each(files, safetensors.read_header)
            header = safetensors.combine(dict(zip(files, headers, strict=True)), index)
        return Source(repo, "hub", config, header, choice.notes, self.commit)

    def _list(self) -> list[str]:
        """Return the repository's file names, and pin its commit so that all files are of one version."""
        where = f"the list of files of {self.ref.repo}"
        path = f"/api/models/{self.ref.repo}/revision/{quote(self.ref.revision, safe='')}"
        info = parse_object(self.web.get(self.web.endpoint + path, MAX_BYTES, where), where, MAX_BYTES, SourceError)
        commit, siblings = info.get("sha"), info.get("siblings")
        names = [
            name
            for entry in (siblings if isinstance(siblings, list) else ())
            if isinstance(entry, dict) and isinstance(name := entry.get("rfilename"), str)
        ]
        if not isinstance(siblings, list):
            raise SourceError(f"The hub did not say which files {self.ref.repo} has.", "Check HF_ENDPOINT.")
        if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,64}", commit):
            self.commit = commit
        return names

    def _url(self, file: str) -> str:
        return f"{self.web.endpoint}/{self.ref.repo}/resolve/{quote(self.commit, safe='')}/{quote(file)}"

    def _json(self, file: str) -> dict[str, object]:
        where = f"{file} of {self.ref.repo}"
        return parse_object(self.web.get(self._url(file), MAX_BYTES, where), where)

    def _index(self, file: str) -> safetensors.Index:
        where = f"{file} of {self.ref.repo}"
        return safetensors.parse_index(self.web.get(self._url(file), safetensors.MAX_INDEX, where), where)

    def _reader(self, file: str) -> RemoteReader:
        return RemoteReader(self.web, self._url(file), f"{file} of {self.ref.repo}")

    def _each(self, files: Sequence[str], read: Callable[[RemoteReader], Header]) -> list[Header]:
        """Read several files at once; the first trouble ends it."""
        readers = [self._reader(file) for file in files]
        if len(readers) == 1:
            return [read(readers[0])]
        pool = ThreadPoolExecutor(min(WORKERS, len(readers)))
        try:
            return list(pool.map(read, readers))
        finally:
            pool.shutdown(cancel_futures=True)

    def _gguf(self, files: Iterable[str]) -> Source:
        from oomph.sources import gguf

        header = gguf.read_header([self._reader(file) for file in files])
        return Source(self.ref.repo, "hub", header=header, revision=self.commit)


def _cached(ref: HubRef) -> Source:
    """Return the model from huggingface_hub's cache on this disk, without any request."""
    from huggingface_hub import try_to_load_from_cache

    fix = "Go online once, or use a catalogue name or a local copy."
    found = try_to_load_from_cache(ref.repo, ref.file or CONFIG, revision=ref.revision)
    if not isinstance(found, str):
        raise SourceError(f"{ref.repo} is not in the catalogue, not on this disk, and oomph is offline.", fix)
    folder = Path(found).parent
    try:
        source = local.load(Path(found) if ref.file else folder)
    except (SourceError, UsageError):
        if ref.file:
            raise
        source = local.load(Path(found))  # weights in the cache only in part: the config still says all sizes
    note = f"read from the hub's cache on this disk, commit {folder.name[:12]}"
    return replace(source, name=ref.repo, origin="cache", notes=(*source.notes, note), revision=folder.name)
