"""Fetching models, against a server on this machine that speaks as the hub does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save as safe_bytes

from gpt2lab.commands.download import TransferMeter
from gpt2lab.commands.download import command as download_command
from gpt2lab.config import Config, parameter_shapes
from gpt2lab.errors import Failure, InputError
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import find, load
from gpt2lab.weights.hub import download as hub
from gpt2lab.weights.hub import locate
from gpt2lab.weights.hub import transfer as web
from gpt2lab.weights.hub.download import download

from .test_special_tokens import WAYS, stored

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin")
CONFIG = Config(n_vocab=61, n_ctx=16, n_embd=8, n_head=2, n_layer=2)
SETTINGS = (
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"),
    *("HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)


def config_json(**more: object) -> bytes:
    values = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": CONFIG.n_vocab,
        "n_positions": CONFIG.n_ctx,
        "n_embd": CONFIG.n_embd,
        "n_head": CONFIG.n_head,
        "n_layer": CONFIG.n_layer,
    }
    return json.dumps({**values, **more}).encode()


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in parameter_shapes(CONFIG).items()
    }


def gpt2(**more: bytes | None) -> dict[str, bytes]:
    """The files of a small model; None takes one away."""
    files: dict[str, bytes | None] = {
        "config.json": config_json(),
        "README.md": b"a card",
        "tf_model.h5": b"another framework",
        "model.safetensors": safe_bytes(tensors()),
        **{name.replace("__", "."): data for name, data in more.items()},
    }
    return {name: data for name, data in files.items() if data is not None}


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    url: str = ""
    cdn: str = ""  # another address, to which large files are sent
    home: str = ""  # where one is sent who asks at "localhost"
    token: str = ""  # what private repos ask for
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)  # file -> answers before the right
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> bytes after which it hangs up
    spoiled: set[str] = field(default_factory=set)  # files sent with a wrong byte
    no_ranges: bool = False
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def gets(self, file: str) -> list[str | None]:
        """The ranges that were asked of a file."""
        return [span for kind, path, span, _ in self.asked if kind == "GET" and path.endswith(file)]

    def files(self) -> set[str]:
        return {path.rsplit("/", 1)[1] for kind, path, _, _ in self.asked if kind == "GET"}


def etag_of(name: str, data: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.hub
        given = self.headers.get("Authorization")
        hub.asked.append((self.command, path, self.headers.get("Range"), given))
        if hub.home and self.headers["Host"].startswith("localhost"):
            self.answer(308, Location=hub.home + self.path)
            return
        if path.startswith("/cdn/"):
            repo, name = path[5:].rsplit("/", 1)
            self.send(name, hub.repos[repo][name])
            return
        match = re.fullmatch(r"/(.+?)/resolve/(.+)/([^/]+)", path)
        assert match, path
        repo, revision, name = match.groups()
        if repo in hub.renamed:
            target = self.path.replace(repo, hub.renamed[repo])
            self.answer(307, Location=target)
            return
        if repo in hub.gated:
            self.answer(403, X_Error_Code="GatedRepo")
            return
        if repo not in hub.repos or (repo in hub.private and given != f"Bearer {hub.token}"):
            self.answer(401)
            return
        if revision not in ("main", COMMIT):
            self.answer(404, X_Error_Code="RevisionNotFound")
            return
        if hub.status.get(name):
            self.answer(hub.status[name].pop(0), Retry_After="7")
            return
        if name not in hub.repos[repo]:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            return
        self.file(repo, name, hub.repos[repo][name])

    def file(self, repo: str, name: str, data: bytes) -> None:
        told = {"X_Repo_Commit": COMMIT}
        if name.endswith(LARGE):
            told |= {"X_Linked_Etag": f'"{etag_of(name, data)}"', "X_Linked_Size": str(len(data))}
            if self.hub.cdn:
                self.answer(302, Location=f"{self.hub.cdn}/cdn/{repo}/{name}", **told)
                return
        self.send(name, data, ETag=f'"{etag_of(name, data)}"', **told)

    def send(self, name: str, data: bytes, **headers: str) -> None:
        if name in self.hub.spoiled:
            data = data[:-1] + bytes([data[-1] ^ 1])
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(span[1]) if span and not self.hub.no_ranges else 0
        if begin and begin >= len(data):
            self.answer(416, Content_Range=f"bytes */{len(data)}")
            return
        if begin:
            headers["Content_Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = data[begin:]
        self.answer(206 if begin else 200, Content_Length=str(len(body)), **headers)
        if self.command == "HEAD":
            return
        if self.hub.cut.get(name):
            self.wfile.write(body[: self.hub.cut[name].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent when the client hangs up, as it does when it is stopped."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine, no waiting, and a cache of the test's own."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(web, "WAITS", (0.0,) * 4)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[Hub]:
    import huggingface_hub.utils

    state = Hub()
    handler = type("HubHandler", (Handler,), {"hub": state})
    service = Service(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{service.server_port}"
    huggingface_hub.utils.close_session()
    yield state
    huggingface_hub.utils.close_session()
    service.shutdown()
    service.server_close()
    thread.join()


def fetch(server: Hub, name: str = "me/tiny", **more: object) -> Path:
    return download(name, endpoint=server.url, **more)


# --- what is fetched ---


def test_a_model_is_fetched_and_loads(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    path = fetch(server)
    assert path == find.hub_cache() / "models--me--tiny" / "snapshots" / COMMIT
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    params = load(path).params
    np.testing.assert_array_equal(params["wte.weight"], tensors()["wte.weight"])
    assert find.find("me/tiny") == path


def test_only_needed_files_are_asked_for(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2(pytorch_model__bin=b"x", merges__txt=b"#version: 0.2\n")
    fetch(server)
    assert server.files() == {"config.json", "merges.txt", "model.safetensors"}


@pytest.mark.parametrize("way", WAYS)
def test_special_tokens_come_with_the_model_however_they_are_stored(
    server: Hub, tmp_path: Path, way: str
) -> None:
    """Only tokenizer.json, vocab.json and merges.txt were fetched: <|user|> became six tokens."""
    stored(tmp_path / "theirs", way)
    (tmp_path / "theirs" / "chat_template.jinja").write_text("{{ messages }}")
    theirs = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    server.repos["me/tiny"] = {**gpt2(), **theirs}
    ours, expected = Tokenizer.load(fetch(server)), Tokenizer.load(tmp_path / "theirs")
    assert ours.special_tokens == expected.special_tokens and "<|user|>" in ours.special_tokens
    assert ours.settings == expected.settings and "chat_template" in ours.settings


def test_official_sizes_and_bare_names(server: Hub) -> None:
    server.repos["openai-community/gpt2"] = gpt2()
    server.repos["distilbert/distilgpt2"] = gpt2()
    assert fetch(server, "124M") == fetch(server, "gpt2") == find.find("124M")
    assert fetch(server, "distilgpt2") == find.find("distilbert/distilgpt2")


def test_the_cache_is_the_one_of_huggingface_hub(server: Hub) -> None:
    """What we write is found by the hub's own library, links and refs included."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    server.repos["me/tiny"] = gpt2()
    path, cache = fetch(server), find.hub_cache()
    file = try_to_load_from_cache("me/tiny", "model.safetensors", cache_dir=cache)
    assert file == str(path / "model.safetensors")
    again = snapshot_download("me/tiny", cache_dir=cache, local_files_only=True)
    assert Path(again) == path
    assert (path / "config.json").is_symlink()


def test_what_huggingface_hub_fetched_is_found_and_not_fetched_again(server: Hub) -> None:
    from huggingface_hub import hf_hub_download

    server.repos["me/tiny"] = gpt2()
    for name in ("config.json", "model.safetensors"):
        hf_hub_download(
            "me/tiny", name, endpoint=server.url, cache_dir=find.hub_cache(), token=False
        )
    path = find.find("me/tiny")
    assert path is not None
    server.asked.clear()
    assert fetch(server) == path
    assert server.files() == {"config.json"}


def test_a_second_call_fetches_nothing_again(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    fetch(server)
    server.asked.clear()
    fetch(server)
    assert server.gets("model.safetensors") == []


def test_force_fetches_again(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    fetch(server)
    server.asked.clear()
    path = fetch(server, force=True)
    assert server.gets("model.safetensors") == [None]
    assert load(path).format == "huggingface"


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards(server: Hub, kind: str) -> None:
    stem, _, ending = kind.partition(".")
    shards = [f"{stem}-0000{n}-of-00002.{ending}" for n in (1, 2)]
    all_names = list(tensors())
    parts = [all_names[:10], all_names[10:]]
    index = {name: shards[n] for n in (0, 1) for name in parts[n]}
    files = gpt2(model__safetensors=None)
    files[f"{kind}.index.json"] = json.dumps({"weight_map": index}).encode()
    for shard, names in zip(shards, parts, strict=True):
        files[shard] = safe_bytes({name: tensors()[name] for name in names})
    server.repos["me/tiny"] = files
    path = fetch(server)
    assert find.is_complete(path)
    np.testing.assert_array_equal(load(path).params["ln_f.bias"], tensors()["ln_f.bias"])


def test_a_shard_index_that_leads_out_of_the_folder_is_refused(server: Hub) -> None:
    files = gpt2(model__safetensors=None)
    index = {"weight_map": {"wte.weight": "../../../evil"}}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    server.repos["me/tiny"] = files
    with pytest.raises(InputError, match="not a file name in this folder"):
        fetch(server)


def test_torch_weights_when_there_is_nothing_better(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2(model__safetensors=None, pytorch_model__bin=b"PK")
    assert (fetch(server) / "pytorch_model.bin").read_bytes() == b"PK"


def test_large_files_come_from_another_address_without_the_token(server: Hub) -> None:
    """The token stays with the hub: a CDN has its own signature in the address."""
    server.repos["me/tiny"], server.token = gpt2(), "hf_secret"
    server.private.add("me/tiny")
    server.cdn = server.url.replace("127.0.0.1", "localhost")
    fetch(server, token="hf_secret")
    sent = {path: token for _, path, _, token in server.asked}
    assert sent["/cdn/me/tiny/model.safetensors"] is None
    assert sent[f"/me/tiny/resolve/{COMMIT}/model.safetensors"] == "Bearer hf_secret"


def test_a_mirror_that_sends_one_elsewhere_is_followed_without_the_token(server: Hub) -> None:
    server.repos["me/tiny"], server.home = gpt2(), server.url
    mirror = server.url.replace("127.0.0.1", "localhost")
    assert load(download("me/tiny", endpoint=mirror, token="hf_secret")).format == "huggingface"
    sent = [token for *_, token in server.asked]
    assert set(sent[0::2]) == {"Bearer hf_secret"} and set(sent[1::2]) == {None}


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_mirror_may_send_large_files_to_another_path_of_its_own(
    server: Hub, monkeypatch: pytest.MonkeyPatch, is_relative: bool
) -> None:
    """get_hf_file_metadata goes on to an answer that names no commit, and fails."""
    server.repos["me/tiny"], server.cdn = gpt2(), server.url
    answer = Handler.answer

    def told(self: Handler, status: int, **headers: str) -> None:
        if "Location" in headers and is_relative:
            headers["Location"] = headers["Location"].removeprefix(server.url)
        answer(self, status, **headers)

    monkeypatch.setattr(Handler, "answer", told)
    assert load(fetch(server)).format == "huggingface"


def test_a_circle_of_redirects_ends(server: Hub) -> None:
    server.renamed["me/tiny"] = "me/tiny"
    with pytest.raises(Failure, match=r"sends config\.json in a circle"):
        fetch(server)


def test_a_renamed_model_is_followed(server: Hub) -> None:
    server.repos["you/new"] = gpt2()
    server.renamed["me/old"] = "you/new"
    assert load(fetch(server, "me/old")).format == "huggingface"


def test_a_commit_as_revision(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    path = fetch(server, revision=COMMIT)
    assert not (path.parent.parent / "refs").exists()
    assert find.snapshot("me/tiny", COMMIT) == path


def test_where_links_cannot_be_made_files_are_moved(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(errno.EPERM, "a privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    server.repos["me/tiny"] = gpt2()
    path = fetch(server)
    assert not (path / "model.safetensors").is_symlink() and load(path).format == "huggingface"
    server.asked.clear()
    fetch(server)
    assert server.gets("model.safetensors") == []


def test_progress_is_told(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    told: list[tuple[str, int, int | None]] = []
    fetch(server, progress=lambda *what: told.append(what))
    size = len(gpt2()["model.safetensors"])
    assert told[-1] == ("model.safetensors", size, size)


# --- cut and damaged transfers ---


def test_a_cut_transfer_goes_on_within_the_call(server: Hub) -> None:
    server.repos["me/tiny"], server.cut["model.safetensors"] = gpt2(), [1000, 500]
    path = fetch(server)
    assert server.gets("model.safetensors") == [None, "bytes=1000-", "bytes=1500-"]
    assert load(path).format == "huggingface"


def test_a_cut_transfer_goes_on_in_the_next_call(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub throws what came of a file away when a call ends; 500 MB are too dear."""
    server.repos["me/tiny"], server.cut["model.safetensors"] = gpt2(), [1000]
    monkeypatch.setattr(web, "WAITS", ())
    with pytest.raises(Failure, match=r"broke off.*run the same command again"):
        fetch(server)
    assert find.find("me/tiny") is None
    path = fetch(server)
    assert server.gets("model.safetensors") == [None, "bytes=1000-"]
    assert load(path).format == "huggingface"


def test_ctrl_c_keeps_what_came(server: Hub) -> None:
    server.repos["me/tiny"], server.cut["model.safetensors"] = gpt2(), [1000]

    def stop(file: str, done: int, total: int | None) -> None:
        if file == "model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, progress=stop)
    fetch(server)
    assert server.gets("model.safetensors")[1] == "bytes=1000-"


def test_a_server_without_ranges_starts_over(server: Hub) -> None:
    server.repos["me/tiny"], server.cut["model.safetensors"] = gpt2(), [1000]
    server.no_ranges = True
    assert load(fetch(server)).format == "huggingface"


def test_a_bad_part_of_an_earlier_call_is_fetched_afresh(server: Hub) -> None:
    server.repos["me/tiny"] = files = gpt2()
    data = files["model.safetensors"]
    for bad in (b"x" * 100, b"x" * len(data), b"x" * (len(data) + 9)):
        blobs = find.repo_folder("me/tiny") / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        etag = etag_of("model.safetensors", data)
        (blobs / etag).unlink(missing_ok=True)
        (blobs / f"{etag}.incomplete").write_bytes(bad)
        assert (fetch(server) / "model.safetensors").read_bytes() == data


@pytest.mark.parametrize("file", ["model.safetensors", "merges.txt"])
def test_a_damaged_file_is_removed_and_told(server: Hub, file: str) -> None:
    server.repos["me/tiny"] = gpt2(merges__txt=b"#version: 0.2\na b\n")
    server.spoiled.add(file)
    with pytest.raises(
        Failure, match=rf"{file} of me/tiny arrived damaged: its .* is .*, expected"
    ):
        fetch(server)
    folder = find.repo_folder("me/tiny")
    etag = etag_of(file, server.repos["me/tiny"][file])
    assert not [path for path in folder.rglob("*") if etag in path.name or path.name == file]
    server.spoiled.clear()
    assert find.is_complete(fetch(server))


def test_a_file_damaged_on_this_disk_is_mended(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    path = fetch(server)
    blob = (path / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert (fetch(server) / "model.safetensors").read_bytes() == gpt2()["model.safetensors"]


def test_a_servers_fault_passes(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    server.status = {"config.json": [503, 500], "model.safetensors": [429]}
    assert find.is_complete(fetch(server))


# --- refusals and failures: one line, the cause, the next step ---


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text and "httpx" not in text
    return text


def test_no_such_model(server: Hub) -> None:
    with pytest.raises(InputError, match=r"does not exist at .* or is private") as caught:
        fetch(server)
    assert "spelling" in one_line(caught)
    assert not find.repo_folder("me/tiny").exists()


def test_gated_and_private(server: Hub) -> None:
    server.repos["me/tiny"], server.token = gpt2(), "right"
    server.gated.add("me/gated")
    server.private.add("me/tiny")
    with pytest.raises(InputError, match=r"gated: accept its terms at .*HF_TOKEN"):
        fetch(server, "me/gated")
    with pytest.raises(InputError, match=r"private .*HF_TOKEN"):
        fetch(server)
    with pytest.raises(InputError, match="refuses this token"):
        fetch(server, token="wrong")
    assert fetch(server, token=" right\n").is_dir()


def test_the_token_of_the_environment(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["me/tiny"], server.token = gpt2(), "right"
    server.private.add("me/tiny")
    monkeypatch.setenv("HF_TOKEN", "right")
    assert fetch(server).is_dir()
    with pytest.raises(InputError, match="characters that no token has"):
        fetch(server, token="zwei Wörter")


def test_not_a_gpt2_is_refused_before_anything_is_written(server: Hub) -> None:
    bert = config_json(model_type="bert", architectures=["BertModel"])
    server.repos["me/bert"] = gpt2(config__json=bert)
    with pytest.raises(
        InputError, match=r"me/bert/config\.json: model_type is 'bert'.*nothing was fetched"
    ):
        fetch(server, "me/bert")
    assert server.files() == {"config.json"}
    assert not find.repo_folder("me/bert").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "expected a JSON object"),
        (b" " * (1 << 21), "too long"),
        (b'{"architectures": ["LlamaForCausalLM"]}', "architectures is .'LlamaForCausalLM"),
    ],
)
def test_odd_configurations(server: Hub, config: bytes, said: str) -> None:
    server.repos["me/odd"] = gpt2(config__json=config)
    with pytest.raises(InputError, match=said) as caught:
        fetch(server, "me/odd")
    one_line(caught)


def test_no_weights_no_config_no_revision(server: Hub) -> None:
    server.repos["me/empty"] = gpt2(model__safetensors=None)
    with pytest.raises(InputError, match="holds no weights"):
        fetch(server, "me/empty")
    server.repos["me/data"] = {"README.md": b""}
    with pytest.raises(InputError, match=r"no me/data with a config\.json"):
        fetch(server, "me/data")
    with pytest.raises(InputError, match="no revision 'v9'"):
        fetch(server, "me/empty", revision="v9")
    with pytest.raises(InputError, match="no branch, tag or commit"):
        fetch(server, "me/empty", revision="../../x")


def test_a_server_that_is_not_a_hub(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["me/tiny"] = gpt2()
    monkeypatch.setattr(Handler, "file", lambda self, repo, name, data: self.send(name, data))
    with pytest.raises(Failure, match="does not answer as the hub does"):
        fetch(server)


def test_faults_that_stay(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    server.status["config.json"] = [503] * 9
    with pytest.raises(Failure, match=r"HTTP 503 for config\.json.*has a fault, try again"):
        fetch(server)
    server.status["config.json"] = [429] * 9
    with pytest.raises(Failure, match=r"HTTP 429 for .*asked too often, try again in 7 seconds"):
        fetch(server)
    server.status["config.json"] = [418] * 9
    with pytest.raises(InputError, match="HTTP 418"):
        fetch(server)


def test_an_earlier_copy_is_named_when_the_network_fails(server: Hub) -> None:
    server.repos["me/tiny"] = gpt2()
    path = fetch(server)
    server.status["config.json"] = [500] * 9
    with pytest.raises(Failure, match=re.escape(str(path))):
        fetch(server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_refused_connection_names_the_endpoint() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Failure, match=f"{url} cannot be reached: Connection refused") as e:
        download("124M", endpoint=url)
    assert "--endpoint or HF_ENDPOINT" in one_line(e)


def test_a_name_that_cannot_be_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **more: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    with pytest.raises(
        Failure, match=r"https://mirror\.example cannot be reached: Name or service not known"
    ) as caught:
        download("124M")
    one_line(caught)


def test_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_timeout", lambda: 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(Failure, match="timed out"):
            download("124M", endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}")


@pytest.mark.parametrize(
    "url", ["huggingface.co", "ftp://x", "http://", "http://x:y", "http://a b"]
)
def test_endpoints_that_are_no_address(url: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        download("124M", endpoint=url)


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "a--b/c", "-/x", "a/b..c", "x" * 300])
def test_names_that_are_no_models(name: str) -> None:
    with pytest.raises(InputError, match="is no model of the hub"):
        download(name)


def test_offline_takes_what_is_there(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["me/tiny"] = gpt2()
    with pytest.raises(InputError, match=r"not complete in .* offline is set"):
        fetch(server, offline=True)
    path = fetch(server)
    server.asked.clear()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        with monkeypatch.context() as setting:
            setting.setenv(variable, "yes")
            assert download("me/tiny") == path
            with pytest.raises(InputError, match="unset HF_HUB_OFFLINE"):
                download("me/other")
            with pytest.raises(InputError, match="force fetches again"):
                download("me/tiny", force=True)
    assert server.asked == []


def test_a_full_disk(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["me/tiny"] = gpt2()
    little = type("Usage", (), {"free": 500})
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda path: little)
        with pytest.raises(Failure, match=r"model.safetensors needs .* free; make room"):
            fetch(server)
    if Path("/dev/full").exists():  # a file on which every write fails as on a full disk
        before = Path.open

        def opened(self: Path, *args: object, **more: object) -> object:
            is_part = self.name.endswith(".incomplete")
            return before(Path("/dev/full") if is_part else self, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "open", opened)
        with pytest.raises(Failure, match=r"the disk is full.*make room"):
            fetch(server)


def test_a_cache_that_cannot_be_written(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repos["me/tiny"] = gpt2()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(InputError, match=r"cannot be written.*HF_HUB_CACHE") as caught:
        fetch(server)
    one_line(caught)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv("HF_HUB_CACHE", str(closed))
    if not os.access(closed, os.W_OK):  # root may write everywhere
        with pytest.raises(InputError, match="cannot be written"):
            fetch(server)


def test_three_callers_at_once_fetch_a_file_once(server: Hub) -> None:
    import huggingface_hub.utils

    server.repos["me/tiny"] = gpt2()
    huggingface_hub.utils.get_session()  # which 1.0 would make three times
    threads = [threading.Thread(target=fetch, args=(server,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.gets("model.safetensors")) == 1
    assert find.is_complete(fetch(server))


# --- resolve and the command ---


def test_resolve_downloads_what_is_not_here(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.repos["me/tiny"] = gpt2()
    with pytest.raises(InputError, match="fetch it: gpt2lab download me/tiny"):
        find.resolve("me/tiny")
    assert server.asked == []
    path = locate("me/tiny")
    server.asked.clear()
    assert locate("me/tiny") == path and server.asked == []
    with pytest.raises(InputError, match="me/other is not on this machine, and me/other does not"):
        locate("me/other")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Failure, match="me/other is not on this machine, and http"):
        locate("me/other")


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-c", "from gpt2lab.commands import main; main()", *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(hub.__file__).parents[2]), **environment},
        check=False,
    )


def test_the_command(server: Hub) -> None:
    server.repos["openai-community/gpt2"] = gpt2()
    done = run("download", "124M", HF_ENDPOINT=server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{find.find('124M')}\n"
    told = json.loads(run("download", "124M", "--offline", "--json").stdout)
    assert told["name"] == "openai-community/gpt2" and told["n_layer"] == 2
    assert told["problem"] is None and told["path"] == str(find.find("124M"))


def test_exit_codes_and_one_line(server: Hub) -> None:
    for code, args, said in (
        (2, ["no model"], "is no model of the hub"),
        (2, ["me/none", "--endpoint", server.url], "does not exist"),
        (2, ["124M", "--offline"], "offline is set"),
        (1, ["124M", "--endpoint", f"http://127.0.0.1:{free_port()}"], "refused"),
    ):
        done = run("download", *args)
        assert done.returncode == code and done.stdout == ""
        assert done.stderr.count("\n") == 1 and said in done.stderr


def test_help_has_an_example() -> None:
    text = CliRunner().invoke(download_command, ["--help"]).output
    assert "Example: gpt2lab download 124M" in text


def test_the_meter_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    meter = TransferMeter()
    for done in (250_000, 500_000):
        meter("model.safetensors", done, 500_000)
    meter("merges.txt", 10, None)
    meter.end()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "model.safetensors  500.0 kB of 500.0 kB, 100%" in shown.err
    assert shown.err.endswith("merges.txt  10 B\n")
