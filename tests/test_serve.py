"""The HTTP API: the texts of the command line, streams, scores, and clients that leave."""

from __future__ import annotations

import asyncio
import base64
import json
import math

import numpy as np
import pytest

pytest.importorskip("msgspec")
pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.generation.sampling import NAMES
from gpt2lab.server.schema import SamplingFields

from .serve_helpers import Caller, scope_of, served


@pytest.fixture(scope="module")
def call():
    with served() as found:
        yield Caller(found)


@pytest.fixture(scope="module")
def lm(call):
    return call.served.get(None).lm


def test_every_setting_of_sampling_is_a_field():
    assert set(SamplingFields.__struct_fields__) >= NAMES


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 3},
        {"seed": 3, "temperature": 0},
        {"seed": 1, "top_k": 5, "repetition_penalty": 1.3, "stop": "."},
        {"seed": 1, "n": 3, "logit_bias": {"11": -5}, "bad_words": [" boy"]},
        {"seed": 5, "num_beams": 3, "n": 2},
        {"seed": 2, "end_on": "sentence", "min_p": 0.1},
    ],
)
def test_texts_are_those_of_the_library(call, lm, settings):
    """Choice i of a prompt is (seed, i), whatever the way to ask for it."""
    prompts = ["Once upon a time", "The dog"]
    answer = call.post("/v1/completions", prompt=prompts, max_tokens=24, **settings)
    expected = lm.complete(prompts, max_new_tokens=24, **settings)
    assert [one["text"] for one in answer["choices"]] == [one.text for one in expected]
    reasons = [one["finish_reason"] for one in answer["choices"]]
    assert reasons == [one.finish_reason for one in expected]
    assert answer["usage"]["completion_tokens"] == sum(len(one.tokens) for one in expected)


def test_many_at_once_are_what_each_is_alone(call):
    """Forty requests of different lengths share the batch."""
    bodies = [
        {"prompt": "Once upon a time"[: 4 + i % 12], "max_tokens": 5 + i % 17, "seed": i}
        for i in range(40)
    ]
    alone = [call.post("/v1/completions", **body)["choices"][0]["text"] for body in bodies]

    async def together():
        return await asyncio.gather(*(call.ask("POST", "/v1/completions", b) for b in bodies))

    shared = [
        json.loads(content)["choices"][0]["text"] for _, _, content in asyncio.run(together())
    ]
    assert shared == alone


def test_a_stream_is_the_whole_answer_in_whole_characters(call):
    body = {"prompt": "Once 👋", "max_tokens": 30, "seed": 4, "n": 2, "logprobs": 1}
    whole = call.post("/v1/completions", **body)
    events = call.events("/v1/completions", **body, stream_options={"include_usage": True})
    assert len({event["id"] for event in events}) == 1
    assert events[-1]["choices"] == [] and events[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [one for e in events for one in e["choices"] if one["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert "\ufffd" not in "".join(part["text"] for part in parts)
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [value for part in parts for value in part["logprobs"][name]]
            assert joined == choice["logprobs"][name]


def test_a_stop_string_over_several_tokens_never_shows(call, lm):
    text = lm.generate("Once", seed=0, max_new_tokens=40)
    stop = text[20:29]
    events = call.events("/v1/completions", prompt="Once", seed=0, max_tokens=40, stop=[stop])
    found = "".join(event["choices"][0]["text"] for event in events)
    assert found == text[: text.index(stop)]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("length", [510, 511, 512])
def test_the_harness_gets_the_log_probabilities_of_score(call, lm, length):
    """Passages up to the whole window, as lm-evaluation-harness asks for them."""
    ids = [(7 * i * i + i) % 4000 for i in range(length)]
    answer = call.post(
        "/v1/completions", prompt=[ids], max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1
    )
    [choice] = answer["choices"]
    found = choice["logprobs"]
    expected = lm.score(ids, after_end=False).logprobs
    assert found["token_logprobs"][:-1] == expected
    assert len(found["token_logprobs"]) == length + 1
    logits = lm.logits([ids])[0]
    for i in (1, length // 2, length - 1):
        best = int(np.argmax(logits[i - 1]))
        assert (best == ids[i]) == (
            found["token_logprobs"][i] == max(found["top_logprobs"][i].values())
        )
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())


def test_echo_alone_generates_nothing(call):
    answer = call.post("/v1/completions", prompt="Once upon", max_tokens=0, echo=True, logprobs=0)
    [choice] = answer["choices"]
    assert choice["text"] == "Once upon" and answer["usage"]["completion_tokens"] == 0
    assert choice["logprobs"]["token_logprobs"][0] is None


def test_a_part_of_a_character_is_named_by_its_bytes(call):
    answer = call.post("/v1/completions", prompt="👋", max_tokens=0, echo=True, logprobs=1)
    assert "bytes:\\xf0" in answer["choices"][0]["logprobs"]["tokens"]


def test_best_of_returns_the_most_probable(call):
    body = {"prompt": "Once", "max_tokens": 10, "seed": 0}
    many = call.post("/v1/completions", **body, n=4, logprobs=0)["choices"]
    best = call.post("/v1/completions", **body, n=1, best_of=4)["choices"][0]["text"]
    means = [sum(c["logprobs"]["token_logprobs"]) / 10 for c in many]
    assert best == many[int(np.argmax(means))]["text"]


def test_a_suffix_is_ranked_by_its_own_probability(call, lm):
    answer = call.post(
        "/v1/completions", prompt="Once", suffix=" The end.", max_tokens=8, seed=1, n=3
    )
    assert answer["method"] == "sample-and-rank"
    scores = [one["suffix_logprob"] for one in answer["choices"]]
    assert scores == sorted(scores, reverse=True)
    choice = answer["choices"][0]
    before = [*lm.encode("Once"), *lm.encode(choice["text"], add_special_tokens=False)]
    ids = [*before, *lm.encode(" The end.", add_special_tokens=False)]
    expected = math.fsum(lm.score(ids, after_end=False).logprobs[len(before) :])
    assert math.isclose(scores[0], expected, rel_tol=1e-6)


def test_chat_is_the_script_of_two_speakers(call, lm):
    from gpt2lab import Chat

    answer = call.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=20,
        seed=1,
    )
    chat = Chat(lm, settings={"max_new_tokens": 20, "seed": 1})
    text = "".join(piece.text for piece in chat.reply("Hello"))
    assert answer["choices"][0]["message"]["content"] == text.strip()
    events = call.events(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        max_completion_tokens=20,
        seed=1,
    )
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    joined = "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert joined.strip() == text.strip()


def test_next_tells_why_a_token_is_out(call, lm):
    settings = {"top_k": 5, "top_p": 0.5, "temperature": 0.7, "bad_words": [[608]]}
    [one] = call.post("/next", prompt="", top=20, logits=True, **settings)["data"]
    logits = np.frombuffer(base64.b64decode(one["logits"]), "<f4")
    expected = lm.logits([[lm.config.begin]])[0, -1]
    assert np.array_equal(logits, expected)
    reasons = {row["id"]: row["reason"] for row in one["top"]}
    assert reasons[608] == "bad_words"
    assert {"top_k", "top_p"} <= set(reasons.values())
    assert sum(reason is None for reason in reasons.values()) == one["left"]
    assert math.isclose(
        sum(math.exp(r["logprob_after"]) for r in one["top"] if not r["reason"]), 1, rel_tol=1e-5
    )
    for row in one["top"]:
        assert row["logprob"] == float(log_softmax(expected)[row["id"]])
        assert math.isclose(row["logit"] - one["logsumexp"], row["logprob"], abs_tol=1e-4)


def test_score_is_that_of_the_library(call, lm):
    text = "Once upon a time there was a cat. " * 30  # moves the window
    for after_end in (True, False):
        [one] = call.post("/score", texts=[text * 2], after_end=after_end, top=3)["data"]
        expected = lm.score(text * 2, after_end=after_end)
        assert one["logprobs"] == expected.logprobs
        assert one["bits_per_byte"] == expected.bits_per_byte
        assert one["perplexity"] == expected.perplexity
        assert one["stride"] == expected.stride is not None
        scored = [(r, t) for r, t in zip(one["ranks"], one["top"], strict=True) if r is not None]
        ids = [i for i, rank in zip(one["tokens"], one["ranks"], strict=True) if rank is not None]
        assert all(
            (rank == 1) == (top[0]["id"] == i) for (rank, top), i in zip(scored, ids, strict=True)
        )


def test_look_gives_the_page_its_data(call):
    plain = call.post("/look", prompt="Once upon a time")
    changed = call.post("/look", prompt="Once upon a time", scale=[[0, 0, 0.0]])
    assert plain["tokens"] == changed["tokens"] and plain["next"] != changed["next"]
    assert changed["model"]["acts"]


def test_embeddings_are_the_mean_of_the_residual_stream(call, lm):
    answer = call.post("/v1/embeddings", input=["Once upon", "The dog"])
    last = lm.config.n_layer - 1
    for text, one in zip(["Once upon", "The dog"], answer["data"], strict=True):
        stream = lm.trace(text, "resid_post", last)[f"h.{last}.resid_post"][0]
        np.testing.assert_allclose(one["embedding"], stream.mean(0), rtol=1e-5, atol=1e-6)
    packed = call.post("/v1/embeddings", input="Once upon", encoding_format="base64")
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert np.frombuffer(raw, "<f4").tolist() == answer["data"][0]["embedding"]


def test_tokens_there_and_back(call, lm):
    found = call.post("/tokenize", prompt="Hello 👋", add_special_tokens=False)
    assert found["tokens"] == lm.encode("Hello 👋") and found["count"] == len(found["tokens"])
    assert bytes(b for one in found["bytes"] for b in one).decode() == "Hello 👋"
    assert call.post("/detokenize", tokens=found["tokens"])["prompt"] == "Hello 👋"
    assert call.post("/tokenize", content="Hello 👋")["tokens"] == found["tokens"]
    code, _, content = call("GET", "/tokenizer_info")
    assert code == 200 and json.loads(content)["eos_token"] == "<|endoftext|>"


def test_a_client_that_leaves_frees_its_row_within_one_step(call):
    """Measured on the batch: at most one step runs after the disconnect is told to the thread."""
    scheduler = call.served.get(None).scheduler

    async def leave(streams: bool) -> int:
        body = {"prompt": "Once", "max_tokens": 400, "n": 4, "seed": 1, "stream": streams}
        body["stop_tokens"] = []
        leaving = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive():
            if messages:
                return messages.pop(0)
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        task = asyncio.ensure_future(call.app(scope_of("POST", "/v1/completions"), receive, send))
        begun = scheduler.tokens
        while scheduler.tokens < begun + 40:
            await asyncio.sleep(0.001)
        leaving.set()
        await task
        asked = scheduler.steps  # the thread has the message now
        while len(scheduler.batch):
            await asyncio.sleep(0)
        return scheduler.steps - asked

    for streams in (True, False):
        assert asyncio.run(leave(streams)) <= 1
        assert scheduler.waiting == 0 and not scheduler._flights


def test_the_page_is_served_by_name(call):
    code, headers, content = call("GET", "/")
    assert code == 200 and headers["content-security-policy"].startswith("default-src 'none'")
    assert b"<html" in content
    again = call("GET", "/", headers=[("if-none-match", headers["etag"])])
    assert again[0] == 304 and again[2] == b""
    for path in ("/../pyproject.toml", "/%2e%2e/x", "//etc/passwd", "/editor.py"):
        assert call("GET", path)[0] == 404


def test_the_description_names_every_call(call):
    code, _, content = call("GET", "/openapi.json")
    about = json.loads(content)
    assert code == 200 and "/v1/completions" in about["paths"]
    assert "temperature" in about["components"]["schemas"]["CompletionRequest"]["properties"]


def test_the_openai_client(call, lm):
    """OpenAI's own client reads every answer, plain and streamed."""
    openai = pytest.importorskip("openai")
    pytest.importorskip("uvicorn")
    from .serve_process import listening

    with listening(call.app) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        assert [one.id for one in client.models.list()] == ["fable"]
        done = client.completions.create(
            model="fable", prompt="Once", max_tokens=10, seed=1, logprobs=2
        )
        assert done.choices[0].text == lm.generate("Once", max_new_tokens=10, seed=1)
        chunks = client.completions.create(
            model="fable", prompt="Once", max_tokens=10, seed=1, stream=True
        )
        assert "".join(one.choices[0].text for one in chunks) == done.choices[0].text
        said = client.chat.completions.create(
            model="fable", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        )
        assert said.choices[0].message.role == "assistant"
        vector = client.embeddings.create(model="fable", input="Once").data[0].embedding
        assert len(vector) == lm.config.n_embd
        with pytest.raises(openai.BadRequestError, match="temperature is -1"):
            client.completions.create(model="fable", prompt="Once", temperature=-1)
        with pytest.raises(openai.NotFoundError, match="no model"):
            client.completions.create(model="../x", prompt="Once")
