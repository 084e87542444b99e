"""Bad bodies, keys, hosts and loads: each gets OpenAI's error, and the server lives on."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
import urllib.request

import pytest

pytest.importorskip("msgspec")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
from gpt2lab.server.limits import Budget, Limits
from gpt2lab.server.refusals import Refusal

from .serve_helpers import Caller, served
from .serve_process import Program


@pytest.fixture(scope="module")
def call():
    with served(most=64) as found:
        yield Caller(found, limits=Limits(body=100_000, choices=16, prompts=16))


def alive(call):
    """A later request is answered as ever."""
    assert call.post("/v1/completions", prompt="Once", max_tokens=1, seed=0)["choices"]


BODIES = {
    b"": "not JSON",
    b"[]": "Expected `object`",
    b'{"prompt": "a", "prompt": "b"}': "twice",
    b'{"prompt": "\xff"}': "not UTF-8",
    b'{"prompt": "\\ud800"}': "",
    b'{"prompt": "a", "temperature": NaN}': "not JSON",
    b'{"prompt": "a", "temperature": 1e400}': "",
    b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}": "",
    b'{"prompt": "a", "max_tokens": true}': "Expected `int | null`, got `bool`",
    b'{"prompt": "a", "max_tokens": 1.5}': "Expected `int | null`",
    b'{"prompt": "a", "colour": 1}': "colour",
    b'{"prompt": ' + b"[" * 49_000 + b"]" * 49_000 + b"}": "",
}


@pytest.mark.parametrize("raw", BODIES, ids=lambda raw: repr(raw[:30]))
def test_a_bad_body_is_refused(call, raw):
    code, _, content = call("POST", "/v1/completions", raw=raw)
    assert code == 400 and BODIES[raw] in json.loads(content)["error"]["message"]
    alive(call)


FIELDS = [
    {"n": 10**9},
    {"n": 0},
    {"best_of": 10**9},
    {"prompt": ["a"] * 10, "n": 2},
    {"prompt": ["a"] * 1000},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": [1, "a"]},
    {"prompt": [-1]},
    {"prompt": [4096]},
    {"prompt": [2**70]},
    {"prompt": "a " * 1000},
    {"max_tokens": 0},
    {"max_tokens": -1},
    {"max_tokens": 2**63},
    {"max_tokens": 513},
    {"logprobs": 4096},
    {"logprobs": -1},
    {"logprobs": 2, "num_beams": 2},
    {"logit_bias": {"99999": 1}},
    {"logit_bias": {"x y z q": 1}},
    {"logit_bias": {str(i): 1 for i in range(2000)}},
    {"stop": [""]},
    {"stop": ["x"] * 1000},
    {"stop": ["x" * 10_000]},
    {"stop_tokens": [4096]},
    {"temperature": -1},
    {"temperature": 1e30},
    {"temperature": 1e-30},
    {"top_p": 0},
    {"min_p": 2},
    {"presence_penalty": 1e9},
    {"repetition_penalty": 0},
    {"preset": "no"},
    {"processors": ["no"]},
    {"seed": -1},
    {"model": "../../etc/passwd"},
    {"model": "x" * 10_000},
    {"model": "a\x00b"},
    {"stream": True, "best_of": 2},
    {"stream": True, "suffix": "x"},
    {"overflow": "x"},
    {"num_beams": 1000},
]


@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: str(fields)[:40])
def test_a_bad_field_is_refused(call, fields):
    """The message names what is wrong; nothing reaches the engine."""
    code, _, content = call("POST", "/v1/completions", {"prompt": "a", **fields})
    error = json.loads(content)["error"]
    assert code in (400, 404) and error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) < 1000 and "\n" not in error["message"]
    alive(call)


def test_all_tokens_banned_is_an_error_of_that_request_alone(call):
    banned = {"bad_words": [[i] for i in range(4095)], "stop_tokens": [0]}
    with served() as found:
        wide = Caller(found, limits=Limits(biases=10_000))
        code, _, content = wide(
            "POST", "/v1/completions", {"prompt": "a", **banned, "logit_bias": {"4095": -1e30}}
        )
        assert code in (200, 400), content
        alive(wide)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/next", {"prompts": []}),
        ("/next", {"prompts": [[5000]]}),
        ("/next", {"prompt": "a", "top": 10**9}),
        ("/score", {}),
        ("/score", {"text": "a", "texts": ["a"]}),
        ("/score", {"texts": [""]}),
        ("/score", {"text": "a b c", "stride": 0}),
        ("/score", {"text": "a", "top": 10**6}),
        ("/look", {"prompt": ""}),
        ("/look", {"prompt": "a", "scale": [[99, 0, 0]]}),
        ("/look", {"prompt": "a b " * 400}),
        ("/tokenize", {}),
        ("/detokenize", {"tokens": [-1]}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}),
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "x", "content": "a"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 9000}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}],
                                  "chat_template": "{{ x }}"}),
    ],
)  # fmt: skip
def test_bad_calls_of_the_other_routes_are_refused(call, path, body):
    code, _, content = call("POST", path, body)
    assert code == 400 and json.loads(content)["error"]["message"]


def test_kinds_and_sizes_of_bodies(call):
    assert call("POST", "/tokenize", raw=b"x" * 200_000)[0] == 413
    declared = call("POST", "/tokenize", raw=b"{}", headers=[("content-length", "9" * 30)])
    assert declared[0] == 413
    assert call("POST", "/tokenize", raw=b"{}", headers=[("content-type", "text/plain")])[0] == 415
    assert call("POST", "/tokenize", raw=b"{}", headers=[("content-encoding", "gzip")])[0] == 415
    assert call("GET", "/v1/completions")[0] == 405
    assert call("GET", "/nothing")[0] == 404


def test_a_full_queue_is_429_with_a_time(call):
    async def crowd():
        body = {"prompt": "Once", "max_tokens": 200, "n": 16, "seed": 1, "stop_tokens": []}
        answers = [call.ask("POST", "/v1/completions", body) for _ in range(6)]
        return await asyncio.gather(*answers)

    found = asyncio.run(crowd())
    codes = sorted(code for code, _, _ in found)
    assert codes == [200, 200, 200, 200, 429, 429]
    assert all("retry-after" in names for code, names, _ in found if code == 429)
    alive(call)


def test_tokens_a_minute_of_a_key():
    now = [0.0]
    budget = Budget(600, clock=lambda: now[0])
    budget.spend("a", 500)
    with pytest.raises(Refusal, match="wait 20 s") as error:
        budget.spend("a", 300)
    assert error.value.headers == {"retry-after": "20"}
    budget.spend("b", 600)
    now[0] = 20.0
    budget.spend("a", 300)
    with pytest.raises(Refusal, match="ask for fewer"):
        budget.spend("a", 601)


def test_every_route_but_the_page_needs_a_key():
    """The routes are listed from the application, so that a new one cannot be forgotten."""
    with served() as found:
        door = Caller(found, keys=["first", "second"])
        paths = json.loads(door("GET", "/openapi.json", headers=[key("second")])[2])["paths"]
        for path, methods in paths.items():
            for method in methods:
                code, _, content = door(method.upper(), path, raw=b"{}")
                assert code == (200 if path in ("/healthz", "/readyz") else 401), path
                assert b"first" not in content
        for wrong in (
            "",
            "Bearer",
            "Bearer wrong",
            "Bearer first second",
            "Bearer \xff",
            "Basic first",
        ):
            assert door("GET", "/v1/models", headers=[("authorization", wrong)])[0] == 401
        assert door("GET", "/v1/models", headers=[key("x" * 100_000)])[0] == 401
        assert door("GET", "/v1/models", headers=[key("first")])[0] == 200
        for path in ("//v1/models", "/v1/models/", "/V1/models", "/healthz/../v1/models"):
            assert door("GET", path)[0] == 401
        assert door("GET", "/")[0] == 200


def key(text):
    return ("authorization", f"Bearer {text}")


def test_another_host_name_is_refused(call):
    """A foreign name that leads to this machine (DNS rebinding) gets no answer."""
    assert call("GET", "/v1/models", headers=[("host", "evil.example")])[0] == 421
    assert call("GET", "/v1/models", headers=[("host", "localhost:8000")])[0] == 200


def test_other_origins_are_not_let_in(call):
    _, headers, _ = call("GET", "/v1/models", headers=[("origin", "http://evil.example")])
    assert not any(name.startswith("access-control") for name in headers)


def test_a_request_id_cannot_forge_the_log(call, caplog):
    caplog.set_level("INFO", logger="gpt2lab.access")
    _, headers, _ = call("GET", "/v1/models\r\nforged", headers=[("x-request-id", "a\x1b[31mb")])
    assert headers["x-request-id"].startswith("req-")
    assert "forged" not in caplog.text and "\x1b" not in caplog.text


def test_a_dead_engine_is_told():
    with served() as found:
        caller, scheduler = Caller(found), found.get(None).scheduler
        told = []
        scheduler.on_failure(lambda: told.append(True))
        scheduler.batch.step = lambda: 1 / 0
        code, _, content = caller("POST", "/v1/completions", {"prompt": "Once"})
        assert code == 503 and json.loads(content)["error"]["message"]
        assert caller("GET", "/healthz")[0] == 503 and told == [True]
        assert caller("POST", "/v1/completions", {"prompt": "Once"})[0] == 503


# ---- A process of its own.


def post(address, **body):
    request = urllib.request.Request(
        f"{address}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request, timeout=60))


def test_a_stop_signal_lets_a_running_request_end():
    program = Program()
    try:
        whole = post(program.address, prompt="Once", seed=1, max_tokens=300, stop_tokens=[])
        host, port = program.address.removeprefix("http://").split(":")
        body = json.dumps(
            {"prompt": "Once", "seed": 1, "max_tokens": 300, "stop_tokens": [], "stream": True}
        )
        with socket.create_connection((host, int(port)), timeout=60) as line:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json"
            )
            line.sendall(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            found = line.recv(1000)
            program.process.send_signal(signal.SIGTERM)
            while part := line.recv(65536):
                found += part
        assert b"data: [DONE]" in found
        assert program.process.wait(30) == 0
        events = [
            e[6:] for e in found.decode().replace("\r\n", "\n").split("\n") if e[:6] == "data: "
        ]
        text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
        assert text == whole["choices"][0]["text"]
    finally:
        program.end()


def test_killed_and_begun_again_it_gives_the_same_text():
    texts = []
    for _ in range(2):
        program = Program()
        try:
            answer = post(program.address, prompt="Once", seed=1, max_tokens=30)
            texts.append(answer["choices"][0]["text"])
        finally:
            program.process.send_signal(signal.SIGKILL)
            program.end()
    assert texts[0] == texts[1]


@pytest.mark.parametrize("host", ["256.1.1.1", "no such host", "192.0.2.1", "a" * 70 + ".b"])
def test_an_address_that_is_not_of_this_machine_is_one_line(host, run):
    code, out, err = run("serve", "--host", host, "--port", "0")
    assert (code, out) == (2, "")
    assert err.startswith(f"gpt2lab: cannot listen on {host} port 0 (")
    assert err.count("\n") == 1


def test_ctrl_c_and_a_taken_port():
    program = Program()
    try:
        port = program.address.rpartition(":")[2]
        with pytest.raises(AssertionError, match="cannot listen"):
            Program("--port", port)
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(30) in (0, 130)
        time.sleep(0.1)
        assert not any("Traceback" in line for line in program.log)
    finally:
        program.end()
