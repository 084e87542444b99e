"""The five calls of the editor over a model, for its tests: `http.server`, one thread a request."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any

import gpt2lab
from gpt2lab import lens
from gpt2lab.engines.wanted import Wanted, largest
from gpt2lab.errors import InputError
from gpt2lab.generation import sampler
from gpt2lab.generation.generate import pieces
from gpt2lab.lens import page as look_page
from gpt2lab.pages.editor import POLICY, files


class Calls:
    """What the page may ask; each method takes the body of a request."""

    def __init__(self) -> None:
        self.lm = gpt2lab.load()
        self.reference = gpt2lab.load(engine="numpy")
        self.lock = threading.Lock()
        self.running = 0  # streams that are not finished

    def bytes_of(self, ids: list[int]) -> list[list[int]]:
        return [list(self.lm.tokenizer.token_bytes(one)) for one in ids]

    def models(self) -> dict[str, Any]:
        c = self.lm.config
        one = {"id": "fable", "n_ctx": c.n_ctx, "n_vocab": c.n_vocab}
        return {"data": [{**one, "n_layer": c.n_layer, "n_head": c.n_head}]}

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self.lm.tokenizer.encode(body["prompt"])
        return {"tokens": ids, "bytes": self.bytes_of(ids)}

    def next(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"data": [self._after(ids, body) for ids in body["prompts"]]}

    def _after(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        cache = self.lm.engine.cache()
        ids = (ids or [self.lm.config.begin])[-self.lm.config.n_ctx :]
        logits = self.lm.engine.step(cache, [cache.new()], [ids])[0]
        logprobs, best = sampler.log_softmax(logits), largest(logits, body["top"]).tolist()
        top = [
            {"id": one, "bytes": raw, "logprob": float(logprobs[one])}
            for one, raw in zip(best, self.bytes_of(best), strict=True)
        ]
        raw = base64.b64encode(logits.astype("<f4").tobytes()).decode()
        return {"top": top, "logits": raw if body["logits"] else None}

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"data": [self._scored(text, body["after_end"]) for text in body["texts"]]}

    def _scored(self, text: str, after_end: bool) -> dict[str, Any]:
        ids = self.lm.tokenizer.encode(text)
        if len(ids) == 1 and not after_end:
            raise InputError("one token alone has nothing before it")
        full = [self.lm.config.begin, *ids] if after_end else ids
        found: dict[str, list[Any]] = {
            name: [] if after_end else [None] for name in ("logprobs", "ranks", "entropies")
        }
        for inputs, wanted in gpt2lab.score._windows(full, 512, 256):
            cache = self.lm.engine.cache()
            asked: Wanted = replace(wanted, rank=True, entropy=True)
            [one] = self.lm.engine.score(cache, [cache.new()], [inputs], [asked])
            for name, values in found.items():
                values += getattr(one, name).tolist()
        return {"tokens": ids, "bytes": self.bytes_of(ids), **found}

    def look(self, body: dict[str, Any]) -> dict[str, Any]:
        acts = [lens.scale_heads(*one) for one in body["scale"]]
        model = self.reference.acting(*acts) if acts else self.reference
        return look_page.gather(model, model.encode(body["prompt"]), layer_scores=False)

    def completions(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a stream."""
        names = {"max_tokens": "max_new_tokens"}
        given = {names.get(name, name): value for name, value in body.items()}
        for name in ("model", "prompt", "stream"):
            given.pop(name, None)
        given["bad_words"] = tuple(map(tuple, given.get("bad_words", ())))
        given["logit_bias"] = {int(k): v for k, v in given.get("logit_bias", {}).items()}
        asked = self.lm.requests([body["prompt"] or None], given.pop("overflow", "refuse"), given)
        made = pieces(self.lm.engine, self.lm.tokenizer, asked)
        self.running += 1
        try:
            for one in made:
                choice = {"index": one.index, "text": one.text, "finish_reason": one.finish_reason}
                yield {"choices": [choice]}
        finally:
            self.running -= 1


def _handler(calls: Calls) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, content: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            name = self.path[1:] or "index.html"
            if name == "v1/models":
                self._send(json.dumps(calls.models()).encode(), "application/json")
            elif name in files():
                self._send(files()[name].content, files()[name].kind)
            else:
                self._send(b"{}", "application/json", 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                if self.path == "/v1/completions":
                    self._stream(body)
                    return
                with calls.lock:
                    found = getattr(calls, self.path[1:])(body)
                self._send(json.dumps(found).encode(), "application/json")
            except InputError as error:
                said = json.dumps({"error": {"message": str(error)}})
                self._send(said.encode(), "application/json", 400)

        def _stream(self, body: dict[str, Any]) -> None:
            chunks = calls.completions(body)
            if not body.get("stream"):
                text = "".join(one["choices"][0]["text"] for one in chunks)
                whole = {"choices": [{"index": 0, "text": text}]}
                self._send(json.dumps(whole).encode(), "application/json")
                return
            first = next(chunks)  # a request that is refused has its own status
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for chunk in chain([first], chunks):
                    self._event(chunk)
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:  # the reader has left
                chunks.close()

        def _event(self, chunk: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

    return Handler


@contextmanager
def serving() -> Iterator[tuple[str, Calls]]:
    """A server of the bundled model: its address, and its calls."""
    calls = Calls()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(calls))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
