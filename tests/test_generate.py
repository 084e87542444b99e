"""Generation: equal to transformers, independent of neighbours, exact at stops and borders."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from gpt2lab import InputError, Sampling, engines, load, reference
from gpt2lab.cache import Cache
from gpt2lab.generation import generate, sampler
from gpt2lab.generation.batch import Row, Token
from gpt2lab.generation.request import Request, fit, requests, resolve
from gpt2lab.generation.stopping import Writer
from gpt2lab.lm import LM
from gpt2lab.weights import Checkpoint

from .support import GOLDEN, TINY, batch_of, drawn, new_ids, tiny_engine, tiny_params

PROMPTS = [[10, 20, 30], [5, 6, 7, 8, 9, 10, 11], [90, 1, 2, 3, 4]]


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture(scope="module")
def lm():
    return load()


# ---- Equal to transformers.


@pytest.fixture(scope="module")
def theirs():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=TINY.n_vocab,
        n_positions=TINY.n_ctx,
        n_embd=TINY.n_embd,
        n_head=TINY.n_head,
        n_layer=TINY.n_layer,
        bos_token_id=5,
        eos_token_id=5,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    state = {f"transformer.{k}": torch.from_numpy(v) for k, v in tiny_params().items()}
    model.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})

    def run(prompts, eos, **settings):
        width = max(map(len, prompts))
        padded = [[0] * (width - len(p)) + p for p in prompts]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
        with torch.no_grad():
            out = model.generate(
                torch.tensor(padded),
                attention_mask=torch.tensor(mask),
                do_sample=False,
                pad_token_id=0,
                eos_token_id=list(eos) or None,
                **settings,
            )
        rows = []
        for row in out[:, width:].tolist():
            end = next((i + 1 for i, t in enumerate(row) if t in eos), len(row))
            rows.append(row[:end])
        return rows

    return run


MANY_ENDS = (5, 9, 17, 33, 40, 41, 42, 43, 44, 60, 61, 62)
BEAMS = list(
    itertools.product([2, 4], [1.0, 0.0, 2.0, -0.5], [False, True, "never"], [(5,), MANY_ENDS])
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("beams", "penalty", "early", "eos"), BEAMS, ids=str)
def test_beam_search_gives_transformers_ids(engine, theirs, beams, penalty, early, eos):
    expected = theirs(
        PROMPTS,
        eos,
        max_new_tokens=10,
        num_beams=beams,
        num_return_sequences=2,
        length_penalty=penalty,
        early_stopping=early,
    )
    s = Sampling(
        temperature=0,
        max_new_tokens=10,
        num_beams=beams,
        n=2,
        length_penalty=penalty,
        early_stopping=early,
        stop_tokens=eos,
    )
    assert list(new_ids(engine, PROMPTS, s).values()) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 6},
        {"bad_words": ((30,), (7, 8))},
    ],
    ids=str,
)
def test_greedy_and_processed_beams_give_transformers_ids(engine, theirs, settings, beams):
    eos = MANY_ENDS
    hf = dict(settings)
    if "bad_words" in hf:
        hf["bad_words_ids"] = [list(word) for word in hf.pop("bad_words")]
    expected = theirs(PROMPTS, eos, max_new_tokens=12, num_beams=beams, **hf)
    s = Sampling(temperature=0, max_new_tokens=12, num_beams=beams, stop_tokens=eos, **settings)
    assert list(new_ids(engine, PROMPTS, s).values()) == expected


def test_greedy_past_the_window_equals_nanogpt():
    """nanoGPT runs the last block_size tokens again for each new one: window_keep 1."""
    folder = GOLDEN / "nanogpt_checkpoint"
    from gpt2lab import weights

    config, params, _ = weights.load(folder / "ckpt.pt")
    expected = np.load(folder / "expected.npz")["generate_top1_90"].ravel().tolist()
    s = Sampling(temperature=0, max_new_tokens=90, window_keep=1.0, stop_tokens=())
    found = new_ids(engines.choose(config, params), [expected[:5]], s)
    assert found[0, 0] == expected[5:]


# ---- The cache and the engine.


def test_cached_steps_equal_one_call(engine):
    cache, tokens = engine.cache(), [3, 1, 4, 1, 5, 9, 2, 6]
    slot = cache.new()
    whole = engine.logits([tokens])[0]
    engine.step(cache, [slot], [tokens[:3]])
    for place in range(3, 8):
        logits = engine.step(cache, [slot], [[tokens[place]]])
        assert np.abs(logits[0] - whole[place]).max() < 1e-4


def test_slots_fork_rewind_and_free():
    engine = tiny_engine()
    cache = engine.cache()
    a = cache.new()
    engine.step(cache, [a], [[1, 2, 3, 4]])
    b = cache.fork(a)
    one, two = engine.step(cache, [a, b], [[5], [6]])
    assert not np.allclose(one, two)
    cache.rewind(a, 4)
    assert np.array_equal(engine.step(cache, [a], [[6]])[0], two)
    cache.free(b)
    assert len(cache) == 1 and cache.length(a) == 5


def test_the_cache_never_grows_past_the_window():
    cache = Cache(TINY)
    slot = cache.new()
    for _ in range(TINY.n_ctx):
        cache.append(slot, np.zeros((1, 2, 2, 4, 1, 8), np.float32))
    assert cache.past(slot).shape == (1, 2, 2, 4, 64, 8)


def test_float64_is_float64():
    engine = tiny_engine(dtype="float64")
    assert engine.logits([[1, 2]]).dtype == np.float64
    with pytest.raises(
        InputError, match="dtype of the numpy engine is 'int8'; it must be one of float32, float64"
    ):
        tiny_engine(dtype="int8")
    with pytest.raises(InputError, match="engine is 'tpu'; it must be one of cpu"):
        engines.choose(TINY, tiny_params(), "tpu")


# ---- A sample is a function of (weights, prompt, settings, seed, index) alone.


def test_batch_size_order_and_other_samples_change_nothing(engine):
    s = Sampling(max_new_tokens=15, n=3, seed=11, stop_tokens=(5,), top_p=0.9)
    expected = new_ids(engine, PROMPTS, s)
    for batch_size in (1, 2, 5):
        assert new_ids(engine, PROMPTS, s, batch_size=batch_size) == expected
    backwards = new_ids(engine, PROMPTS[::-1], s)
    assert all(backwards[2 - p, i] == found for (p, i), found in expected.items())
    alone = new_ids(engine, [PROMPTS[1]], s, indices=[2])
    assert alone == {(0, 2): expected[1, 2]}


def test_random_batches_orders_and_cancellations_change_nothing(engine):
    s = Sampling(max_new_tokens=12, n=4, seed=3, stop_tokens=())
    expected = new_ids(engine, PROMPTS, s)
    dice = random.Random(0)
    for _ in range(10):
        batch, places = batch_of(engine, PROMPTS, s, batch_size=dice.randint(1, 12))
        found: dict[tuple[int, int], list[int]] = {}
        for token in generate.tokens(batch):
            found.setdefault(places[token.row], []).append(token.id)
            if dice.random() < 0.05:
                batch.cancel(token.row)
        assert all(got == expected[key][: len(got)] for key, got in found.items())


def test_a_longer_text_begins_with_the_shorter_one(engine):
    short = new_ids(engine, PROMPTS, Sampling(max_new_tokens=5, seed=1, stop_tokens=()))
    long = new_ids(engine, PROMPTS, Sampling(max_new_tokens=20, seed=1, stop_tokens=()))
    assert all(long[key][:5] == found for key, found in short.items())


def test_seeds_and_indices_give_different_texts(engine):
    base = Sampling(max_new_tokens=12, n=3, seed=1, stop_tokens=())
    a, b = new_ids(engine, PROMPTS[:1], base), new_ids(engine, PROMPTS[:1], replace(base, seed=2))
    assert len({tuple(text) for text in [*a.values(), *b.values()]}) == 6


def test_beam_sampling_repeats_with_its_seed(engine):
    s = Sampling(max_new_tokens=8, num_beams=3, n=2, seed=4, temperature=0.9, stop_tokens=(5,))
    first = new_ids(engine, PROMPTS, s)
    assert new_ids(engine, PROMPTS[::-1], s) == {(2 - p, i): v for (p, i), v in first.items()}
    assert new_ids(engine, PROMPTS, replace(s, seed=5)) != first


def test_a_sampled_text_follows_the_model():
    """2,000 first tokens against the softmax of the reference."""
    engine = tiny_engine()
    s = Sampling(max_new_tokens=1, n=2000, seed=9, stop_tokens=())
    drawn = [found[0] for found in new_ids(engine, [[1, 2, 3]], s).values()]
    probs = reference.softmax(engine.logits([[1, 2, 3]])[0, -1].astype(np.float64))
    counts = np.bincount(drawn, minlength=97) / 2000
    assert np.abs(counts - probs).max() < 0.04


def test_logprobs_are_the_model_s_own(engine):
    s = Sampling(max_new_tokens=6, seed=1, temperature=0.5, top_k=5, stop_tokens=())
    found = list(drawn(engine, [[1, 2, 3]], s))
    logits = engine.logits([[1, 2, 3, *(t.id for t in found)]])[0]
    for place, token in enumerate(found):
        expected = np.log(reference.softmax(logits[2 + place].astype(np.float64)))[token.id]
        assert token.logprob == pytest.approx(expected, abs=1e-4)


# ---- The window.


def test_text_goes_on_past_the_window(engine):
    s = Sampling(max_new_tokens=200, seed=1, stop_tokens=(), window_keep=0.25)
    found = list(drawn(engine, [[1, 2, 3]], s))
    assert len(found) == 200
    row = found[-1].row
    # 64 fit; each slide leaves 16 in the window, so 48 more fit before the next.
    assert row.slides == 3
    # Each token is what a fresh model gives for the window that the rule describes.
    logits = engine.logits([row.tokens[65 - 16 : 65]])[0, -1]
    expected = sampler.choose(logits, s, 0, 62)
    assert row.tokens[65] == expected


def test_beams_slide_too(engine):
    s = Sampling(temperature=0, max_new_tokens=80, num_beams=2, stop_tokens=())
    found = list(drawn(engine, [[1, 2, 3]], s))
    assert len(found) == 80 and found[-1].row.slides >= 1


def test_a_prompt_of_exactly_the_window_is_taken_and_one_more_refused(engine):
    s = Sampling(max_new_tokens=3, seed=0, stop_tokens=())
    assert len(new_ids(engine, [[1] * 64], s)[0, 0]) == 3
    with pytest.raises(InputError, match="65 tokens, the model sees 64"):
        new_ids(engine, [[1] * 65], s)


def test_overflow_keeps_what_was_asked_for():
    s = Sampling(max_new_tokens=14)
    prompt = list(range(90))
    assert fit(prompt, TINY, s, "tail") == prompt[-50:]
    both = fit(prompt, TINY, s, "head+tail")
    assert both == [*prompt[:25], *prompt[-25:]]
    assert fit(prompt[:60], TINY, s, "tail") == prompt[:60]
    long = fit(prompt, TINY, Sampling(max_new_tokens=1000), "tail")
    assert long == prompt[-32:]
    with pytest.raises(InputError, match="overflow is 'cut'; it must be one of refuse, tail"):
        fit(prompt, TINY, s, "cut")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([97], "id 97; this model's ids go from 0 to 96"), ([-1], "id -1")],
)
def test_bad_prompts_are_named(prompt, message):
    lm = LM(Checkpoint(TINY, tiny_params(), None, "huggingface"), engine="numpy")
    with pytest.raises(InputError, match=message):
        lm.generate(prompt)


# ---- Text.


def write(pieces, finish="length", **settings):
    """Push pieces through a Writer: (all that was shown, how many tokens it took, the reason)."""
    from gpt2lab.text.tokenizer import Tokenizer

    letters = sorted(set("".join(pieces)))
    tokenizer = Tokenizer.characters(letters)
    writer = Writer(tokenizer, Sampling(**{"stop_tokens": (), **settings}))
    return told(writer, [letters.index(c) for piece in pieces for c in piece], finish)


def told(writer, stream, finish):
    """Push ids through a Writer, the last with `finish`."""
    row, shown = Row([], request=Request((), Sampling())), ""
    for place, token in enumerate(stream):
        last = place == len(stream) - 1
        text, reason = writer.push(Token(row, token, 0.0, finish if last else None))
        shown += text
        assert writer.text.startswith(shown)
        if reason:
            break
    return shown, writer.count, reason


def test_stop_strings_are_found_across_tokens_and_never_shown():
    assert write(["one STOP two"], stop=("STOP",)) == ("one ", 8, "stop")
    assert write(["one STO two"], stop=("STOP",)) == ("one STO two", 11, "length")
    assert write(["aab"], stop=("ab",)) == ("a", 3, "stop")
    assert write(["abcabd"], stop=("abd", "zz")) == ("abc", 6, "stop")


def test_the_earliest_of_several_stops_counts():
    assert write(["x END STOP"], stop=("STOP", "END")) == ("x ", 5, "stop")


def test_text_held_back_is_shown_when_it_was_no_stop():
    assert write(["ends with STO"], stop=("STOP",)) == ("ends with STO", 13, "length")


def test_stops_wait_for_the_least_length():
    assert write(["a.a.a.a."], stop=(".",), min_new_tokens=4) == ("a.a.a", 6, "stop")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("He ran. Then he sat.", "He ran."),
        ("Pi is 3.14 or so. Yes.", "Pi is 3.14 or so."),
        ('"Stop!" he said. Then', '"Stop!"'),
        ("Dr. No met Mr. Bond. They", "Dr. No met Mr. Bond."),
        ("J. R. Smith left. He", "J. R. Smith left."),
        ("Wait... what? No", "Wait..."),
        ("\u4f60\u597d\u3002\u518d\u89c1", "\u4f60\u597d\u3002"),
        ("no end here", "no end here"),
    ],
)
def test_end_on_a_sentence(text, shown):
    assert write([text], end_on="sentence")[0] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("One.\nTwo.\n\nThree.", "One.\nTwo."),
        ("\n\nOne.\n \nTwo.", "\n\nOne."),
        ("One.\nTwo.", "One.\nTwo."),
    ],
)
def test_end_on_a_paragraph(text, shown):
    assert write([text], end_on="paragraph")[0] == shown


def test_end_on_waits_for_the_least_length():
    found = write(["Ab. Cd. Ef. Gh."], end_on="sentence", min_new_tokens=6)
    assert found == ("Ab. Cd.", 8, "stop")


def test_the_end_token_ends_and_is_not_shown(lm):
    text = "The end."
    end = lm.config.end_tokens[0]
    s = resolve(Sampling(seed=0), lm.config, lm.tokenizer)
    assert told(Writer(lm.tokenizer, s), [*lm.tokenizer.encode(text), end], "stop")[0] == text


def test_pieces_never_cut_a_character(lm):
    """The bytes of an emoji are several tokens of the bundled vocabulary."""
    tokens = lm.tokenizer.encode("hi \U0001f600\U0001f468\u200d\U0001f469!")
    assert len(tokens) > 8
    s = resolve(Sampling(seed=0), lm.config, lm.tokenizer)
    row = Row([], request=Request((), s))
    writer, ends = Writer(lm.tokenizer, s), [None] * (len(tokens) - 1) + ["length"]
    shown = [writer.push(Token(row, id, 0.0, end))[0] for id, end in zip(tokens, ends, strict=True)]
    assert "".join(shown) == "hi \U0001f600\U0001f468\u200d\U0001f469!"
    assert all("\ufffd" not in piece for piece in shown)


def test_a_padded_vocabulary_never_gives_ids_without_text(lm):
    """nanoGPT pads 50,257 to 50,304; the rows in between are noise that can be drawn."""
    from gpt2lab.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.characters("abcdefghij")
    s = Sampling(max_new_tokens=40, seed=0, stop_tokens=())
    engine = tiny_engine()
    for piece in generate.pieces(engine, tokenizer, requests([[1, 2]], s, TINY, tokenizer)):
        assert piece.token < 10


def test_bad_words_are_banned_in_both_spellings(lm):
    s = resolve(Sampling(bad_words=("cat",)), lm.config, lm.tokenizer)
    encode = lm.tokenizer.encode
    assert s.bad_words == (tuple(encode("cat")), tuple(encode(" cat")))
    with pytest.raises(InputError, match="is 2 tokens"):
        resolve(Sampling(logit_bias={" cat cat": 1.0}), lm.config, lm.tokenizer)


def test_a_row_ended_by_its_reader_draws_no_more(engine):
    s = Sampling(max_new_tokens=9, n=3, seed=1, stop_tokens=())
    batch, places = batch_of(engine, [[1, 2]], s)
    first, _, last = places
    drawn_by_last = []
    for token in generate.tokens(batch):
        drawn_by_last += [token] if token.row is last else []
        if token.row is first and first.new_tokens == 2:
            batch.cancel(last)
    assert len(drawn_by_last) == 1 and last.finish_reason == "cancelled"


def test_beams_that_run_into_a_dead_end_give_what_there_is():
    """Once every result was lost, those of other prompts too, when the settings left nothing."""
    config = replace(TINY, n_vocab=5)
    engine = engines.choose(config, tiny_params(config))
    s = Sampling(
        temperature=0,
        num_beams=3,
        n=3,
        max_new_tokens=10,
        no_repeat_ngram_size=1,
        stop_tokens=(),
    )
    found = new_ids(engine, [[0], [0, 1]], s)
    assert {len(text) for (p, _), text in found.items() if p == 0} == {4}
    assert {len(text) for (p, _), text in found.items() if p == 1} == {3}
    assert all(len(set(text)) == len(text) for text in found.values())
    with pytest.raises(InputError, match="no text: the settings"):
        new_ids(engine, [[0, 1, 2, 3, 4]], s)
