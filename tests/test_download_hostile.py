"""Downloads from servers that are broken or hostile: one line, in time, and nothing unchecked.

Each test is a fault that a server showed, or could.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from gpt2lab.errors import Failure, InputError
from gpt2lab.weights import find, load
from gpt2lab.weights.hub import download as download_module
from gpt2lab.weights.hub import transfer as web
from gpt2lab.weights.hub.download import download
from tests.test_download import (  # noqa: F401 - fixtures are used by their names
    COMMIT,
    Handler,
    Hub,
    alone,
    config_json,
    etag_of,
    fetch,
    free_port,
    gpt2,
    one_line,
    run,
    server,
)


class Odd:
    """Changes what the server answers: headers of each answer, and bodies without end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.headers: dict[str, str | None] = {}
        self.only = ""  # the file that it is about; "" is every file
        self.endless = False
        plain, send = Handler.answer, Handler.send

        def answer(handler: Handler, status: int, **headers: str) -> None:
            about = handler.path.endswith(self.only)
            more = self.headers if about and "X_Repo_Commit" in headers else {}
            kept = {k: v for k, v in {**headers, **more}.items() if v is not None}
            if about and self.endless:
                kept["Content_Length"] = ""
            plain(handler, status, **kept)

        def sent(handler: Handler, name: str, data: bytes, **headers: str) -> None:
            endless = self.endless and handler.path.endswith(self.only)
            if not endless:
                send(handler, name, data, **headers)
                return
            handler.send_response(200)
            more = {k: v for k, v in {**headers, **self.headers}.items() if v is not None}
            for key, value in more.items():
                handler.send_header(key.replace("_", "-"), value)
            handler.end_headers()
            handler.close_connection = True
            while handler.command == "GET":  # until the client hangs up
                handler.wfile.write(b" " * 65536)

        monkeypatch.setattr(Handler, "answer", answer)
        monkeypatch.setattr(Handler, "send", sent)


@pytest.fixture
def odd(server: Hub, monkeypatch: pytest.MonkeyPatch) -> Odd:  # noqa: F811
    server.repos["me/tiny"] = gpt2(merges__txt=b"#version: 0.2\na b\n", vocab__json=b"{}")
    return Odd(monkeypatch)


# --- etags that are no hashes ---


def test_one_etag_for_all_files_makes_no_file_out_of_them(
    server: Hub,  # noqa: F811
    odd: Odd,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A plain file server gave "1" for every file: the vocabulary became the weights' bytes, and
    nothing said that no file had been checked."""
    odd.headers = {"ETag": '"same"', "X_Linked_Etag": None}
    path = fetch(server)
    for name, data in server.repos["me/tiny"].items():
        if (path / name).exists():
            assert (path / name).read_bytes() == data, name
    told = caplog.messages
    assert len(told) == 1
    for said in ("config.json", "model.safetensors", "merges.txt", server.url, "same", "no hash"):
        assert said in told[0]


def test_the_command_notes_what_was_not_checked(server: Hub, odd: Odd) -> None:  # noqa: F811
    odd.headers, odd.only = {"ETag": '"v1"'}, "merges.txt"
    done = run("download", "me/tiny", "--endpoint", server.url)
    assert done.returncode == 0
    assert done.stderr.startswith("note: merges.txt: checked by size alone")


def test_a_wrong_size_is_found_where_there_is_no_hash(server: Hub, odd: Odd) -> None:  # noqa: F811
    odd.headers = {"ETag": '"v1"', "X_Linked_Etag": None, "X_Linked_Size": "9"}
    odd.only = "model.safetensors"
    with pytest.raises(Failure, match=r"model\.safetensors of me/tiny arrived damaged: it has"):
        fetch(server)


def test_a_part_that_cannot_be_checked_is_not_gone_on_with(server: Hub, odd: Odd) -> None:  # noqa: F811
    """With no hash a damaged part of an earlier call would stay in the file for good."""
    odd.headers, odd.only = {"ETag": '"v1"', "X_Linked_Etag": None}, "model.safetensors"
    fetch(server)
    (blob,) = [
        p for p in (find.repo_folder("me/tiny") / "blobs").iterdir() if p.stat().st_size > 999
    ]
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    blob.with_name(f"{blob.name}.incomplete").write_bytes(b"x" * 100)
    path = fetch(server)
    assert (path / "model.safetensors").read_bytes() == server.repos["me/tiny"]["model.safetensors"]


# --- bodies without end, sizes that cannot be ---


def test_neither_hash_nor_size_is_refused(server: Hub, odd: Odd) -> None:  # noqa: F811
    odd.headers, odd.only, odd.endless = {"ETag": '"v1"'}, "config.json", True
    with pytest.raises(Failure, match=r"neither a hash nor a size for config\.json") as caught:
        fetch(server)
    one_line(caught)


@pytest.mark.parametrize("name", ["config.json", "merges.txt", "model.safetensors"])
def test_a_body_without_end_is_left(
    server: Hub,  # noqa: F811
    odd: Odd,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """A config.json without a size wrote 2.8 GB in 12 s: no limit was held against the body."""
    monkeypatch.setattr(download_module, "TEXT_LIMIT", 1 << 20)
    odd.headers = {"X_Linked_Size": None}
    odd.only, odd.endless = name, True
    most = 0

    def progress(file: str, done: int, total: int | None) -> None:
        nonlocal most
        most = max(most, done)

    with pytest.raises(Failure, match=rf"{name} of me/tiny arrived damaged: it has more than"):
        fetch(server, progress=progress)
    assert most < 4 << 20
    assert not [
        p for p in find.hub_cache().rglob("*") if p.is_file() and p.stat().st_size > 1 << 20
    ]


@pytest.mark.parametrize("name", ["config.json", "merges.txt", "model.safetensors"])
def test_a_size_that_no_such_file_has_is_refused_before_it_is_fetched(
    server: Hub,  # noqa: F811
    odd: Odd,
    name: str,
) -> None:
    odd.headers, odd.only = {"X_Linked_Size": str(1 << 40)}, name
    with pytest.raises(InputError, match=rf"its {re.escape(name)} is too long to be one"):
        fetch(server)
    assert name not in server.files()


@pytest.mark.parametrize("size", ["²", "٣", "-1", "1e3", "9" * 5000, "", " 7 7", "0x10"])
def test_sizes_that_are_no_numbers(server: Hub, odd: Odd, size: str) -> None:  # noqa: F811
    """`"²".isdigit()` is true and int("²") raises: a traceback, as 5,000 digits made one."""
    odd.headers, odd.only = {"X_Linked_Size": size.encode().decode("latin-1")}, "model.safetensors"
    assert find.is_complete(fetch(server))


def test_a_range_of_5000_digits(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    server.repos["me/tiny"], server.cut["model.safetensors"] = gpt2(), [1000]
    plain = Handler.answer

    def answer(handler: Handler, status: int, **headers: str) -> None:
        if status == 206 and server.cut:
            headers["Content_Range"] = f"bytes {'9' * 5000}-"
            server.cut.clear()
        plain(handler, status, **headers)

    monkeypatch.setattr(Handler, "answer", answer)
    assert load(fetch(server)).format == "huggingface"


# --- redirects ---

NOWHERE = [
    "file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::bad", "http://x:y/", "javascript:1",
    "data:,x", "gopher://x", "http://" + "a" * 70 + ".example/x",
]  # fmt: skip


@pytest.mark.parametrize("location", NOWHERE)
@pytest.mark.parametrize("on", ["HEAD", "GET"])
def test_redirects_that_lead_nowhere_are_refused_at_once(
    server: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    on: str,
) -> None:
    """file:// and ftp:// were tried for 15 s and told as unreachable; http://[::bad in answer to
    HEAD was a traceback."""
    server.repos["me/tiny"] = gpt2()
    monkeypatch.setattr(web, "WAITS", (1.0, 2.0, 4.0, 8.0))
    plain = Handler.respond

    def respond(handler: Handler) -> None:
        if handler.command == on:
            handler.answer(302, Location=location)
        else:
            plain(handler)

    monkeypatch.setattr(Handler, "respond", respond)
    start = time.monotonic()
    with pytest.raises(Failure, match=r"sends config\.json .* to what is no address|cannot be"):
        fetch(server)
    assert time.monotonic() - start < 3


def test_a_circle_of_redirects_of_a_body_ends(
    server: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.repos["me/tiny"] = gpt2()
    plain = Handler.respond

    def respond(handler: Handler) -> None:
        if handler.command == "GET":
            handler.answer(302, Location=handler.path)
        else:
            plain(handler)

    monkeypatch.setattr(Handler, "respond", respond)
    with pytest.raises(Failure, match="in a circle"):
        fetch(server)


# --- passwords ---


@pytest.mark.parametrize(
    "login", ["user:s3cret", "s3cret", "user:s3cret@more", "user:s3cret%40more"]
)
def test_a_password_in_the_address_is_sent_and_never_shown(
    server: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    login: str,
) -> None:
    url = f"http://{login}@127.0.0.1:{free_port()}"
    with pytest.raises(Failure, match="cannot be reached") as caught:
        download("124M", endpoint=url)
    assert "s3cret" not in one_line(caught)
    address = server.url.replace("http://", f"http://{login}@")
    for status in (400, 401, 403, 404, 418, 429, 500):
        server.repos["me/tiny"], server.status["config.json"] = gpt2(), [status] * 9
        with pytest.raises((InputError, Failure)) as refused:
            download("me/tiny", endpoint=address)
        assert "s3cret" not in one_line(refused) and server.url in str(refused.value)
    server.status.clear()
    server.cdn = server.url.replace("127.0.0.1", "localhost")
    assert download("me/tiny", endpoint=address).is_dir()
    sent = {token for _, path, _, token in server.asked if not path.startswith("/cdn")}
    assert len(sent) == 1 and all(token and token.startswith("Basic ") for token in sent)
    assert {token for _, path, _, token in server.asked if path.startswith("/cdn")} == {None}


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host:port", "user:s3cret@host", "ftp://user:s3cret@host",
        "http://user:s3/cret@host:x", "http://user:s3 cret@host", "http://user:s3cret@",
        "http:/u:s3cret@h",
    ],
)  # fmt: skip
def test_a_wrong_address_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(InputError, match="is no address") as caught:
        download("124M", endpoint=url)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["odd://user:s3cret@h:1", "http://user:s3:cret@h", "http://user:s3cret@h:x"]
)
def test_a_wrong_proxy_is_told_without_its_password(
    server: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    proxy: str,
) -> None:
    """An address that the HTTP library cannot read was a traceback that held the password."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises((InputError, Failure)) as caught:
        fetch(server)
    assert "cret" not in one_line(caught)


# --- answers that are no models, planted files ---


@pytest.mark.parametrize(
    "config",
    [
        b'{"architectures": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"model_type": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"[" * 500_000,
        b'{"a":' * 100_000,
        config_json(model_type="x" * 900_000),
        json.dumps({"architectures": ["x" * 900_000]}).encode(),
        json.dumps({"architectures": [None]}).encode(),
        b'{"model_type": 1' + b"0" * 5000 + b"}",
        b"\xff\xfe{}",
        json.dumps({"n_layer": 10**300}).encode(),
    ],
)
def test_hostile_configurations_are_one_short_line(server: Hub, config: bytes) -> None:  # noqa: F811
    server.repos["me/odd"] = gpt2(config__json=config)
    with pytest.raises(InputError) as caught:
        fetch(server, "me/odd")
    assert len(one_line(caught)) < 500
    assert not (find.repo_folder("me/odd") / "blobs").exists()


def test_keys_that_stand_twice_are_found_in_time(server: Hub) -> None:  # noqa: F811
    """100,000 keys took hours: each was counted among all."""
    pairs = ",".join(f'"{n}":1' for n in range(90_000))
    server.repos["me/odd"] = gpt2(config__json=f'{{{pairs},"0":2}}'.encode())
    start = time.monotonic()
    with pytest.raises(InputError, match="occurs twice"):
        fetch(server, "me/odd")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("ending", ["incomplete", "lock"])
def test_a_link_in_the_place_of_a_part_is_not_written_through(
    server: Hub,  # noqa: F811
    tmp_path: Path,
    ending: str,
) -> None:
    server.repos["me/tiny"] = files = gpt2()
    folder = find.repo_folder("me/tiny")
    place = folder / "blobs" if ending == "incomplete" else folder.parent / ".locks" / folder.name
    place.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.write_text("dear to me")
    etag = etag_of("model.safetensors", files["model.safetensors"])
    (place / f"{etag}.{ending}").symlink_to(mine)
    assert load(fetch(server)).format == "huggingface"
    assert mine.read_text() == "dear to me"
