"""Prompts that begin from what the KV cache holds: fewer tokens are read, and no bit changes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab import Chat, InputError, Sampling, load
from gpt2lab.engines.cpu import cpu_features
from gpt2lab.generation import generate
from gpt2lab.generation.batch import Batch
from gpt2lab.generation.prefixes import LEAST, PAGES, Prefixes, shared
from gpt2lab.generation.request import Request

from .support import TINY, tiny_engine, tiny_params

SETTINGS = (
    Sampling(max_new_tokens=6, seed=1, stop_tokens=()),
    Sampling(max_new_tokens=40, temperature=0, stop_tokens=(), window_keep=0.5),
    Sampling(max_new_tokens=9, seed=7, top_p=0.8, repetition_penalty=1.2, stop_tokens=(4, 5, 6)),
    Sampling(max_new_tokens=5, temperature=0, num_beams=2, n=2, stop_tokens=(11, 12)),
)
STEMS = tuple(tuple(random.Random(i).randrange(97) for _ in range(50)) for i in range(3))
CPU = () if cpu_features.why_not() else ("float32", "bfloat16", "int8", "int4", "int8 cache")
needs_cpu = pytest.mark.skipif(not CPU, reason="no cpu engine here")


@cache
def engine(name: str) -> Any:
    if name == "numpy":
        return tiny_engine()
    if name == "torch":
        from gpt2lab.engines.torch.engine import TorchEngine

        return TorchEngine(TINY, tiny_params(), device="cpu")
    from gpt2lab.engines.cpu.engine import CpuEngine

    dtype, _, cached = name.partition(" ")
    return CpuEngine(TINY, tiny_params(), dtype, cache_dtype=dtype if cached else None, threads=2)


@cache
def alone(name: str, request: Request, index: int) -> list[tuple[int, float]]:
    """The tokens of a row that has the engine for itself, all of its prompt read at once."""
    batch = Batch(engine(name), chunk=10**6, reuse=0)
    batch.add(request, index)
    return [(token.id, token.logprob) for token in generate.tokens(batch)]


class Read:
    """An engine that counts the tokens that it reads."""

    def __init__(self, engine: Any) -> None:
        self.inner, self.config, self.name = engine, engine.config, engine.name
        self.cache, self.tokens = engine.cache, list[int]()

    def step(self, cache: Any, slots: Any, tokens: Any, wanted: Any = None) -> Any:
        self.tokens.append(sum(map(len, tokens)))
        return self.inner.step(cache, slots, tokens, wanted)


def finish(batch: Batch) -> None:
    while batch:
        batch.step()


def prompt(dice: random.Random, past: list[tuple[int, ...]]) -> tuple[int, ...]:
    """A beginning that others have too, or all that an earlier row came to, and some more."""
    stem = dice.choice(past) if past and dice.random() < 0.5 else dice.choice(STEMS)
    stem = stem[: dice.randint(1, len(stem))] if dice.random() < 0.5 else stem
    return (*stem, *(dice.randrange(97) for _ in range(dice.randint(0, 14))))[:64]


@needs_cpu
@pytest.mark.parametrize("name", CPU)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_reuse_changes_no_bit(name, seed):
    """Rows that share beginnings with rows that run, are read, have ended, were cancelled, slid."""
    dice = random.Random(seed)
    row_bytes = engine(name).cache().position_bytes * TINY.n_ctx
    batch = Batch(
        engine(name),
        rows=dice.randint(1, 5),
        chunk=dice.randint(1, 80),
        reuse=dice.choice([0, row_bytes, 2 * row_bytes, 9 * row_bytes, None]),
        cache_bytes=row_bytes * dice.choice([2, 3, 99]),
    )
    found: dict[Any, list[tuple[int, float]]] = {}
    past: list[tuple[int, ...]] = []
    waiting = dice.randint(2, 14)
    while waiting or batch:
        for _ in range(min(waiting, dice.randint(0, 3))):
            waiting -= 1
            s = dice.choice(SETTINGS)
            asked = Request(prompt(dice, past), s)
            found[batch.add(asked, dice.randrange(s.n + 1) if s.num_beams == 1 else 0)] = []
        for token in batch.step() if batch else ():
            found[token.row].append((token.id, token.logprob))
            if token.finish_reason:
                past.append(tuple(token.row.tokens[-60:]))
        for row in [*found]:
            if row.finish_reason is None and dice.random() < 0.03:
                batch.cancel(row)
        assert batch._prefixes.positions <= batch._prefixes._most
    assert len(batch._cache) == len(batch._prefixes) and not batch._prompts
    for row, tokens in found.items():
        expected = alone(name, row.request, row.index)
        assert tokens == expected[: len(tokens)]
        assert row.finish_reason == "cancelled" or len(tokens) == len(expected)


@needs_cpu
def test_rows_with_one_prompt_in_common_read_it_once():
    """Eight questions after one text: the text is read by the first, in chunks, the rest wait."""
    batch = Batch(Read(engine("float32")), chunk=25)
    rows = [batch.add(Request((*STEMS[0], n, 5), SETTINGS[0])) for n in range(8)]
    finish(batch)
    assert [row.cached for row in rows] == [0] + [50] * 7
    assert sum(batch.engine.tokens) == 50 + 8 * (2 + 5)
    other = Batch(Read(engine("float32")), chunk=25, reuse=0)
    rows = [other.add(Request((*STEMS[0], n, 5), SETTINGS[0])) for n in range(8)]
    finish(other)
    assert [row.cached for row in rows] == [0] * 8
    assert sum(other.engine.tokens) == 8 * (50 + 2 + 5)


@needs_cpu
def test_a_prompt_that_shares_little_waits_for_none():
    """Up to LEAST tokens in common are read again rather than copied: nobody waits for them."""
    batch = Batch(Read(engine("float32")), chunk=300)
    rows = [batch.add(Request((*STEMS[0][: LEAST - 1], n, 5), SETTINGS[0])) for n in range(4)]
    batch.step()
    assert all(row.new_tokens == 1 and row.cached == 0 for row in rows)


@needs_cpu
def test_the_row_that_others_wait_for_may_be_cancelled():
    batch = Batch(engine("float32"), chunk=25)
    first, *others = [batch.add(Request((*STEMS[0], n, 5), SETTINGS[0])) for n in range(4)]
    batch.step()
    batch.cancel(first)
    finish(batch)
    assert [row.new_tokens for row in others] == [6] * 3
    assert [row.cached for row in others] == [25, 50, 50]  # its first chunk was kept


@needs_cpu
def test_a_text_that_goes_on_reads_only_what_is_new():
    """The next turn of a talk: all of the last row but its last token, which no step has read."""
    batch = Batch(Read(engine("int8")))
    row = batch.add(Request(STEMS[0][:30], SETTINGS[0]))
    finish(batch)
    batch.engine.tokens.clear()
    following = batch.add(Request((*row.tokens, 1, 2, 3), SETTINGS[0]))
    finish(batch)
    assert following.cached == 35 and batch.engine.tokens[0] == 4
    again = batch.add(Request(following.request.prompt, SETTINGS[0], 97))
    finish(batch)
    assert again.cached == 38 and again.tokens == following.tokens  # the last one is always read


@needs_cpu
def test_the_oldest_rows_are_dropped_first():
    each = engine("float32").cache().position_bytes * PAGES
    batch = Batch(engine("float32"), reuse=2 * each)
    for stem in (0, 1, 0, 2):  # the first is used again, so the second is the oldest
        batch.add(Request(STEMS[stem][:40], SETTINGS[0]))
        finish(batch)
    asked = [Request((*stem[:30], 1), SETTINGS[0]) for stem in STEMS]
    assert [batch._prefixes.best(list(r.prompt)).length for r in asked] == [30, 0, 30]
    assert len(batch._prefixes) == len(batch._cache) == 2


@needs_cpu
def test_kept_rows_give_way_to_rows_that_run():
    """The limit of the whole cache counts both."""
    each = engine("float32").cache().position_bytes
    batch = Batch(engine("float32"), cache_bytes=100 * each, reuse=64 * each)
    batch.add(Request(STEMS[0][:40], SETTINGS[0]))
    finish(batch)
    assert len(batch._prefixes) == 1
    row = batch.add(Request(STEMS[1][:40], SETTINGS[0]))
    batch.step()
    assert len(batch._prefixes) == 0 and row.new_tokens == 1


@needs_cpu
def test_a_limit_that_keeps_no_row_is_refused():
    least = engine("float32").cache().position_bytes * PAGES
    for wrong in (least - 1, -1, float("nan"), "many"):
        with pytest.raises(InputError, match=f"a row takes {least} or more; give as many, or 0"):
            Batch(engine("float32"), reuse=wrong)
    Batch(engine("float32"), reuse=least)


@needs_cpu
def test_a_row_that_ends_in_an_error_is_not_kept():
    """Numbers that are not finite would lie in a slot that another row takes over."""
    from gpt2lab.engines.cpu.engine import CpuEngine

    params = tiny_params()
    params["wpe.weight"] = params["wpe.weight"].copy()
    params["wpe.weight"][40:] = np.nan
    batch = Batch(CpuEngine(TINY, params, "bfloat16", threads=1))
    row = batch.add(Request(STEMS[0][:45], SETTINGS[0]))
    finish(batch)
    assert row.finish_reason == "error" and len(batch._prefixes) == len(batch._cache) == 0


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_engines_whose_bits_depend_on_portions_read_every_prompt(name):
    if name == "torch":
        pytest.importorskip("torch")
    batch = Batch(Read(engine(name)))
    rows = [batch.add(Request((*STEMS[0][:30], n), SETTINGS[0])) for n in range(2)]
    finish(batch)
    assert [row.cached for row in rows] == [0, 0] and len(batch._cache) == 0
    assert sum(batch.engine.tokens) == 2 * (31 + 5)


@needs_cpu
def test_a_copy_that_fails_leaves_no_slot_behind(monkeypatch):
    batch = Batch(engine("float32"))
    batch.add(Request(STEMS[0][:40], replace(SETTINGS[0], max_new_tokens=20)))
    batch.step()
    row = batch.add(Request((*STEMS[0][:30], 1), SETTINGS[0]))
    with monkeypatch.context() as m:
        m.setattr(type(batch._cache), "_copy", lambda *args: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            batch.step()
    assert len(batch._cache) == 1
    finish(batch)
    assert row.cached == 30 and row.finish_reason == "length"


@needs_cpu
def test_an_interrupted_reader_of_pieces_leaves_its_batch_empty():
    batch = Batch(engine("float32"))
    asked = [Request(STEMS[0][:40], SETTINGS[0])]
    reader = generate.pieces(engine("float32"), None, asked, batch=batch)
    next(reader)
    reader.close()
    assert len(batch) == 0 and len(batch._prefixes) == 1
    done = [*generate.pieces(engine("float32"), None, asked, batch=batch)]
    assert [(p.token, p.logprob) for p in done] == alone("float32", asked[0], 0)


@needs_cpu
def test_a_batch_follows_an_engine_that_becomes_another():
    """Before the fast kernels are compiled the numpy engine serves: an empty batch moves on."""

    class Becoming(Read):
        def step(self, *args: Any) -> Any:
            return self.inner.step(*args)

    first, second = engine("numpy"), engine("float32")
    batch = Batch(Becoming(first))
    batch.add(Request(STEMS[0], SETTINGS[0]))
    batch.engine.name, batch.engine.cache = second.name, second.cache
    late = batch.add(Request(STEMS[1], SETTINGS[0]))  # beside a row of the first
    finish(batch)
    assert late.new_tokens == 6
    batch.engine.inner = second
    batch.add(Request(STEMS[0], SETTINGS[0]))
    finish(batch)
    assert type(batch._cache) is type(second.cache()) and len(batch._prefixes) == 1


def test_what_two_lists_share():
    dice = random.Random(0)
    for _ in range(300):
        one = [dice.randrange(3) for _ in range(dice.randrange(9))]
        other = [dice.randrange(3) for _ in range(dice.randrange(9))]
        pairs = [a == b for a, b in zip(one, other, strict=False)]
        assert shared(one, other) == [*pairs, False].index(False)


@needs_cpu
def test_prompts_that_share_nothing_search_in_no_time():
    """64 kept rows are passed over by their first tokens: no list is compared whole."""
    found = Prefixes(engine("float32").cache(), 1 << 40)
    for n in range(64):
        found._kept[n] = [n] * 60

    class Untouchable(list):  # type: ignore[type-arg]
        def __getitem__(self, part: Any) -> Any:
            assert part.stop - (part.start or 0) <= LEAST or self[:1] == [96]
            return super().__getitem__(part)

    found._kept[99] = Untouchable([96] * 60)
    assert found.best([70] * 60).length == 0
    assert found.best([96] * 50) == (49, 99)


@needs_cpu
def test_the_second_turn_of_a_chat_reads_only_its_own_words(monkeypatch):
    lm = load(engine="cpu", dtype="int8")
    read: list[list[int]] = []
    step = type(lm.engine).step

    def noted(self: Any, cache: Any, slots: Any, tokens: Any, wanted: Any = None) -> Any:
        read.extend(tokens)
        return step(self, cache, slots, tokens, wanted)

    monkeypatch.setattr(type(lm.engine), "step", noted)
    opening = "They talk about the garden and the long way to the village. " * 3
    settings = {"max_new_tokens": 12, "seed": 1}
    chat, plain = (Chat(lm, opening=opening, settings=settings) for _ in range(2))
    for turn in ("Hello, who are you?", "Do you like cakes?", "And what else?"):
        read.clear()
        said = "".join(piece.text for piece in chat.reply(turn))
        assert len(read[0]) < 40 or turn.startswith("Hello")
        read.clear()
        plain._batch = None
        assert said == "".join(piece.text for piece in plain.reply(turn))
        assert len(read[0]) > 40
    a, b = chat.reply("One."), chat.reply("Two.")  # two at once: each has a batch of its own
    assert next(a).index == next(b).index == 0
    a.close(), b.close()
