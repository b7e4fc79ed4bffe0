"""The real hub code against a hub of our own: what is fetched, and what is said when it goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oomph import sources
from oomph.errors import OomphError, SourceError, UsageError
from oomph.sources.hub import HubRef, parse_ref
from tests.sources.files import LLAMA, gguf_file, llama_shapes, safetensors_file, sharded
from tests.sources.hub_server import COMMIT, HubServer

REPO = "someone/tiny-model"
CONFIG = json.dumps(LLAMA).encode()


def header_end(data: bytes) -> int:
    """Where the weights begin in a safetensors file."""
    return 8 + int.from_bytes(data[:8], "little")


def weight_bytes_sent(hub: HubServer) -> int:
    """Bytes of weights that ever left the server."""
    return sum(
        max(0, hub.sent(name) - header_end(data))
        for files in hub.repos.values()
        for name, data in files.items()
        if name.endswith(".safetensors")
    )


@pytest.fixture
def single(hub: HubServer) -> HubServer:
    hub.repos[REPO] = {"config.json": CONFIG, "model.safetensors": safetensors_file(llama_shapes()), "README.md": b"x"}
    return hub


@pytest.fixture
def shards(hub: HubServer) -> HubServer:
    hub.repos[REPO] = {"config.json": CONFIG, **sharded(12)}
    return hub


def refusal(ref: str = REPO, **options: object) -> str:
    with pytest.raises(SourceError) as caught:
        sources.load(ref, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_config_and_header_without_a_byte_of_weights(single: HubServer) -> None:
    """Config and every tensor are known, and the server never sent a byte beyond the header."""
    found = sources.load(REPO)
    assert found.origin == "hub"
    assert found.revision == COMMIT
    assert found.config == LLAMA
    assert found.header is not None
    assert {tensor.name: tensor.shape for tensor in found.header.tensors} == {
        name: shape for name, (_, shape) in llama_shapes().items()
    }
    assert {tensor.dtype for tensor in found.header.tensors} == {"bf16"}
    assert single.sent("model.safetensors") == header_end(single.repos[REPO]["model.safetensors"])


def test_all_shards_are_read_and_no_weights(shards: HubServer) -> None:
    """A dozen shards are one header, checked against the index."""
    found = sources.load(REPO)
    assert found.header is not None
    assert len(found.header.tensors) == len(llama_shapes())
    assert found.header.notes == ()
    assert weight_bytes_sent(shards) == 0


def test_all_files_are_of_one_commit(single: HubServer) -> None:
    """After the list is read, every file is asked for by its commit, whatever `main` means by then."""
    sources.load(f"{REPO}@v1")
    assert single.asked[0][0] == f"/api/models/{REPO}/revision/v1"
    assert all(COMMIT in path for path, _ in single.asked if "/resolve/" in path)


def test_the_token_is_sent_to_the_hub_and_to_nobody_else(single: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub gets the user's token; the host it redirects to does not."""
    mine = "org/asked-for-here-alone"  # the port may have been another test's, whose client still asks
    single.repos[mine] = single.repos[REPO]
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    sources.load(mine)
    asked = [(path, headers) for path, headers in single.asked if mine in path]
    by_cdn = [headers for path, headers in asked if path.startswith("/cdn/")]
    by_hub = [headers for path, headers in asked if not path.startswith("/cdn/")]
    assert by_cdn
    assert by_hub
    assert all("authorization" not in headers for headers in by_cdn)
    assert all(headers["authorization"] == "Bearer hf_good" for headers in by_hub)
    assert all("oomph" in headers["user-agent"] for headers in by_hub)


def test_weights_without_a_config(hub: HubServer) -> None:
    """A repository with weights only is weighed by its headers."""
    hub.repos[REPO] = {"model.safetensors": safetensors_file(llama_shapes())}
    found = sources.load(REPO)
    assert found.config is None
    assert found.header is not None


def test_a_repository_with_pickles_only_gives_its_config(hub: HubServer) -> None:
    """Pickles are not opened; the config still says everything, and a note says so."""
    hub.repos[REPO] = {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x04"}
    found = sources.load(REPO)
    assert found.config == LLAMA
    assert found.header is None
    assert "pickle" in found.notes[0]
    assert hub.sent("pytorch_model.bin") == 0


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"pytorch_model.bin": b"\x80\x04"}, "pickles, which oomph never opens"),
        ({"README.md": b""}, "no config.json and no weights"),
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "adapter"),
        ({"model_index.json": b"{}"}, "diffusion"),
        ({"config.json": b"[1]"}, "holds a list, not an object"),
        ({"config.json": b'{"a": 1, "a": 2}'}, "'a' twice"),
        ({"config.json": CONFIG, "model.safetensors": b"1234"}, "too short"),
        ({"config.json": CONFIG, "model.safetensors": b""}, "shorter than its header says"),
        ({"config.json": CONFIG, "model.safetensors": b"\xff" * 64}, "header is longer"),
        ({"config.json": CONFIG, "model-00001-of-00002.safetensors": b""}, "model-00002-of-00002.safetensors"),
    ],
)  # fmt: skip
def test_repositories_that_are_no_model(hub: HubServer, files: dict[str, bytes], says: str) -> None:
    """Each has a message of its own."""
    hub.repos[REPO] = files
    with pytest.raises(OomphError, match=says) as caught:
        sources.load(REPO)
    assert caught.value.exit_code == 4


def test_a_missing_shard_is_named(shards: HubServer) -> None:
    """The index names a file that the repository does not have."""
    del shards.repos[REPO]["model-00007-of-00012.safetensors"]
    assert "model-00007-of-00012.safetensors is missing" in refusal()


@pytest.mark.parametrize(
    ("fault", "what", "says"),
    [
        ("gated", REPO, "gated"),
        ("private", REPO, "no model someone/tiny-model"),
        ("disabled", "list", "disabled"),
        ("403", "list", "may not read"),
        ("404", "list", "no model"),
        ("404", "config.json", "no model"),
        ("429", "list", "too many requests. Try again in 77 seconds"),
        ("429", "model.safetensors", "too many requests"),
        ("500", "list", "HTTP 500"),
        ("503", "model.safetensors", "HTTP 503"),
        ("418", "list", "HTTP 418"),
        ("loop", "model.safetensors", "round in circles"),
        ("ignore-range", "model.safetensors", "ignores ranges"),
        ("no-content-range", "model.safetensors", "ignores ranges"),
        ("wrong-range", "model.safetensors", "another part"),
        ("short", "model.safetensors", "broke off"),
        ("cut", "model.safetensors", "broke off"),
        ("growing", "model.safetensors", "changed while"),
        ("endless", "config.json", "sends more than 16.00 MiB"),
        ("endless", "model.safetensors", "sends more than"),
    ],
)
def test_each_trouble_has_its_own_message(single: HubServer, fault: str, what: str, says: str) -> None:
    """One clear message and exit code 4 for every way a hub fails; never a byte of weights."""
    single.faults[what] = fault
    assert says in refusal()
    if fault != "ignore-range":  # there the server pushes the whole file; we hang up
        assert weight_bytes_sent(single) == 0


@pytest.mark.parametrize(("fault", "what"), [("slow", "config.json"), ("slow", "model.safetensors")])
def test_a_silent_server_is_given_up(single: HubServer, fault: str, what: str) -> None:
    """Nothing comes for the time limit."""
    single.faults[what] = fault
    assert "within 0.3 seconds" in refusal(timeout=0.3)


@pytest.mark.parametrize("what", ["config.json"])
def test_a_trickling_server_is_given_up(single: HubServer, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the whole request, not for each byte of it."""
    single.faults[what] = "trickle"
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.4")
    assert "within 0.4 seconds" in refusal()


def test_a_server_error_is_tried_again(single: HubServer) -> None:
    """One 503 does not end it."""
    single.faults.update({"list": "flaky", "model.safetensors": "flaky"})
    assert sources.load(REPO).header is not None


def test_what_a_missing_token_can_mean_is_said(single: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token the way to log in is told; a token that is refused is told apart."""
    single.faults[REPO] = "gated"
    assert "hf auth login" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert "hf auth login" not in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert "does not accept your token" in refusal()


def test_missing_revision_and_repository(single: HubServer) -> None:
    """What does not exist is named."""
    assert "no such revision" in refusal(f"{REPO}@v7")
    assert "no model someone/nothing" in refusal("someone/nothing")


def test_no_network(single: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the endpoint."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal()


def test_offline_never_asks(single: HubServer) -> None:
    """Offline means no request at all."""
    assert "offline" in refusal(offline=True)
    assert single.asked == []


def test_a_copy_that_cannot_be_read_has_a_namesake(single: HubServer) -> None:
    """Offline, a repository of a known name under another owner: the catalogue's model is named."""
    with pytest.raises(SourceError, match="The catalogue has famous-8b"):
        sources.load("somebody/famous-8b", offline=True)
    assert single.asked == []


def test_offline_reads_the_cache(single: HubServer, tmp_path: Path) -> None:
    """What huggingface_hub has already downloaded is weighed from this disk."""
    cache = tmp_path / "cache" / "models--someone--tiny-model"
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_bytes(CONFIG)
    (snapshot / "model.safetensors").symlink_to(tmp_path / "blob")
    (tmp_path / "blob").write_bytes(safetensors_file(llama_shapes()))
    found = sources.load(REPO, offline=True)
    assert (found.name, found.origin, found.revision) == (REPO, "cache", COMMIT)
    assert found.config == LLAMA
    assert found.header is not None
    assert single.asked == []


def test_several_models_in_one_repository_must_be_chosen(hub: HubServer) -> None:
    """Which GGUF is meant is never guessed."""
    hub.repos[REPO] = {"a-Q4_K_M.gguf": b"", "a-Q8_0.gguf": b"", "mmproj-f16.gguf": b""}
    with pytest.raises(UsageError, match=r"2 GGUF models: a-Q4_K_M.gguf, a-Q8_0.gguf.*someone/tiny-model:FILE"):
        sources.load(REPO)
    assert "no file 'Q2_K'" in refusal(f"{REPO}:Q2_K")


def test_a_gguf_file_by_name_and_by_tag(hub: HubServer, tmp_path: Path) -> None:
    """Only its header is fetched, with at most as much again of what follows it."""
    for name in ("a-Q4_K_M.gguf", "a-Q8_0.gguf"):
        gguf_file(tmp_path / name, rows=8192)
        hub.repos.setdefault(REPO, {})[name] = (tmp_path / name).read_bytes()
    for ref in (f"{REPO}:a-Q8_0.gguf", f"{REPO}@v1:q8_0"):
        found = sources.load(ref)
        assert found.header is not None
        assert found.header.kind == "gguf"
        assert found.header.n_bytes == 8192 * 256 * 2 + 256 * 256 * 4 + 256 * 4
    assert hub.sent("a-Q4_K_M.gguf") == 0
    assert 30_000 < hub.sent("a-Q8_0.gguf") < 300_000 < len(hub.repos[REPO]["a-Q8_0.gguf"])


def test_a_split_gguf_is_one_model(hub: HubServer, tmp_path: Path) -> None:
    """Any part stands for all, and a repository with one model needs no name."""
    names = [f"m-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for number, name in enumerate(names):
        gguf_file(tmp_path / name, rows=64, part=(number, 3))
    hub.repos[REPO] = {name: (tmp_path / name).read_bytes() for name in names} | {"config.json": b"{}"}
    for ref in (REPO, f"{REPO}:{names[1]}", str(tmp_path), str(tmp_path / names[2])):
        found = sources.load(ref)
        assert found.header is not None
        assert len(found.header.tensors) == 9
        assert found.config is None
    (tmp_path / names[1]).unlink()
    assert f"{names[1]} is missing" in refusal(str(tmp_path / names[0]))
    assert f"{names[1]} is missing" in refusal(str(tmp_path))


@pytest.mark.parametrize(
    ("ref", "means"),
    [
        ("org/name", HubRef("org/name")),
        ("org/name@abc", HubRef("org/name", "abc")),
        ("org/name@refs/pr/1:dir/x.gguf", HubRef("org/name", "refs/pr/1", "dir/x.gguf")),
        ("org/name:Q4_K_M", HubRef("org/name", file="Q4_K_M")),
        ("https://huggingface.co/org/name", HubRef("org/name")),
        ("https://huggingface.co/org/name/blob/main/config.json", HubRef("org/name")),
        ("https://huggingface.co/org/name/resolve/v2/x.gguf?download=true", HubRef("org/name", "v2", "x.gguf")),
        ("hf.co/org/name:Q4_K_M", HubRef("org/name", file="Q4_K_M")),
        ("org/../name", None),
        ("a/b/c", None),
        ("org/na--me", None),
        ("name", None),
    ],
)
def test_references(ref: str, means: HubRef | None) -> None:
    """Ids, revisions, files and addresses copied from the browser."""
    assert parse_ref(ref) == means


@pytest.mark.slow
def test_hf_endpoint_in_a_fresh_process(single: HubServer, tmp_path: Path) -> None:
    """HF_ENDPOINT is honoured as users set it, with an empty HF_HOME, and nothing is written there."""
    code = f"from oomph import sources; print(sources.load({REPO!r}).header.n_bytes)"
    env = {**os.environ, "HF_ENDPOINT": single.endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
    env["HF_HUB_OFFLINE"] = "0"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert int(done.stdout) == 2 * sum(a * (b[0] if b else 1) for _, (a, *b) in llama_shapes().values())
    assert not (tmp_path / "home").exists()
