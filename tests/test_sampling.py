"""The processors against transformers' own, against the official samplers' rules, and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpt2lab import InputError, Sampling
from gpt2lab.generation import processors, sampler
from gpt2lab.generation.processors import History
from gpt2lab.generation.sampler import process

from .support import GOLDEN

V = 300
TIES = 4  # the row of `rows` whose logits are whole numbers


def rows(seed=0, count=6):
    """Logits of several shapes: flat, peaked, with ties."""
    random = np.random.default_rng(seed)
    logits = [random.normal(0, scale, V) for scale in (0.1, 1, 3, 8)]
    logits.append(np.round(random.normal(0, 2, V)))
    logits.append(np.where(random.random(V) < 0.5, -np.inf, random.normal(0, 2, V)))
    return np.array(logits[:count], np.float32)


def history(seed=0, length=40):
    return np.random.default_rng(seed).integers(0, V, (6, length))


HF = [  # our settings, their class, its arguments
    ({"temperature": 0.7}, "TemperatureLogitsWarper", (0.7,)),
    ({"temperature": 1.9}, "TemperatureLogitsWarper", (1.9,)),
    ({"top_k": 1}, "TopKLogitsWarper", (1,)),
    ({"top_k": 40}, "TopKLogitsWarper", (40,)),
    ({"top_k": 1000}, "TopKLogitsWarper", (1000,)),
    ({"top_p": 0.1}, "TopPLogitsWarper", (0.1,)),
    ({"top_p": 0.5}, "TopPLogitsWarper", (0.5,)),
    ({"top_p": 0.9}, "TopPLogitsWarper", (0.9,)),
    ({"top_p": 0.999}, "TopPLogitsWarper", (0.999,)),
    ({"min_p": 0.02}, "MinPLogitsWarper", (0.02,)),
    ({"min_p": 0.3}, "MinPLogitsWarper", (0.3,)),
    ({"typical_p": 0.2}, "TypicalLogitsWarper", (0.2,)),
    ({"typical_p": 0.9}, "TypicalLogitsWarper", (0.9,)),
    ({"epsilon_cutoff": 3e-3}, "EpsilonLogitsWarper", (3e-3,)),
    ({"epsilon_cutoff": 0.5}, "EpsilonLogitsWarper", (0.5,)),
    ({"eta_cutoff": 3e-3}, "EtaLogitsWarper", (3e-3,)),
    ({"eta_cutoff": 0.2}, "EtaLogitsWarper", (0.2,)),
    ({"repetition_penalty": 1.3}, "RepetitionPenaltyLogitsProcessor", (1.3,)),
    ({"repetition_penalty": 0.8}, "RepetitionPenaltyLogitsProcessor", (0.8,)),
    ({"no_repeat_ngram_size": 1}, "NoRepeatNGramLogitsProcessor", (1,)),
    ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor", (2,)),
    ({"no_repeat_ngram_size": 3}, "NoRepeatNGramLogitsProcessor", (3,)),
    ({"bad_words": ((7,), (8, 9))}, "NoBadWordsLogitsProcessor", ([[7], [8, 9]], [0])),
    (
        {"logit_bias": {3: 2.5, 9: -4.0}},
        "SequenceBiasLogitsProcessor",
        ([[[3], 2.5], [[9], -4.0]],),
    ),
]


@pytest.mark.parametrize(("settings", "name", "arguments"), HF, ids=lambda v: str(v)[:40])
def test_each_processor_equals_transformers(settings, name, arguments):
    torch = pytest.importorskip("torch")
    theirs = getattr(pytest.importorskip("transformers"), name)(*arguments)
    logits, tokens = rows(), history()
    tokens[0, -1], tokens[2, -4:] = 8, [5, 6, 5, 6]
    expected = theirs(torch.from_numpy(tokens), torch.from_numpy(logits.copy())).numpy()
    ours = process(logits, Sampling(**settings), tokens)
    assert ours.dtype == np.float32
    if "top_p" in settings:  # which of equal logits go is torch's unstable sort's whim
        ours[TIES], expected[TIES] = np.sort(ours[TIES]), np.sort(expected[TIES])
    assert np.array_equal(np.isneginf(ours), np.isneginf(expected))
    kept = ~np.isneginf(ours)
    assert np.allclose(ours[kept], expected[kept], rtol=1e-6, atol=1e-6)


def test_all_of_them_in_a_row_equal_transformers_generate_order():
    torch = pytest.importorskip("torch")
    t = pytest.importorskip("transformers")
    chain = t.LogitsProcessorList(
        [
            t.RepetitionPenaltyLogitsProcessor(1.2),
            t.NoRepeatNGramLogitsProcessor(2),
            t.NoBadWordsLogitsProcessor([[4]]),
            t.MinNewTokensLengthLogitsProcessor(38, 5, [11]),
            t.TemperatureLogitsWarper(0.8),
            t.TopKLogitsWarper(60),
            t.TopPLogitsWarper(0.9),
            t.MinPLogitsWarper(0.01),
            t.TypicalLogitsWarper(0.95),
            t.EpsilonLogitsWarper(1e-3),
            t.EtaLogitsWarper(2e-3),
        ]
    )
    s = Sampling(
        preset="hf",
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        bad_words=((4,),),
        min_new_tokens=5,
        stop_tokens=(11,),
        temperature=0.8,
        top_k=60,
        top_p=0.9,
        min_p=0.01,
        typical_p=0.95,
        epsilon_cutoff=1e-3,
        eta_cutoff=2e-3,
    )
    for seed in range(30):
        logits, tokens = rows(seed), history(seed)
        expected = chain(torch.from_numpy(tokens), torch.from_numpy(logits.copy())).numpy()
        ours = process(logits, s, tokens, prompt_length=38)
        alike = np.arange(len(logits)) != TIES
        assert np.array_equal(np.isneginf(ours)[alike], np.isneginf(expected)[alike])


@pytest.mark.parametrize("keep", [2, 5])
def test_truncations_keep_enough_for_beams(keep):
    logits = np.array([9, 8, 7, 6, 5, -9, -9, -9], np.float32) * 3
    for settings in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 1.0}, {"epsilon_cutoff": 0.99}):
        kept = process(logits, Sampling(**settings), [], keep=keep) > -np.inf
        assert kept.sum() == keep, settings


def kept(probs, **settings):
    """Which of some probabilities the settings keep."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(probs, np.float32))
    return np.flatnonzero(process(logits, Sampling(**settings), []) > -np.inf).tolist()


def test_the_token_that_crosses_p_by_preset():
    """Checked against the three sources: openai keeps a mass of 0.7, the others of 0.9."""
    probs = [0.4, 0.3, 0.2, 0.1]
    assert kept(probs, top_p=0.8, preset="openai") == [0, 1]
    assert kept(probs, top_p=0.8, preset="gpt-2-simple") == [0, 1, 2]
    assert kept(probs, top_p=0.8, preset="hf") == [0, 1, 2]
    assert kept(probs, top_p=0.8) == [0, 1, 2]
    assert kept(probs, top_p=0.3, preset="openai") == [0]  # at least one stays


def test_openai_applies_top_p_to_what_top_k_left():
    """0.5, 0.25 of the first two are 2/3 and 1/3 after top-k 2, so p = 0.7 keeps one."""
    assert kept([0.5, 0.25, 0.15, 0.1], top_k=2, top_p=0.7, preset="openai") == [0]
    assert kept([0.5, 0.25, 0.15, 0.1], top_p=0.76, preset="openai") == [0, 1]


def test_gpt_2_simple_s_top_p_replaces_top_k():
    probs = [0.4, 0.3, 0.2, 0.1]
    assert kept(probs, top_k=1, top_p=0.8, preset="gpt-2-simple") == [0, 1, 2]
    assert kept(probs, top_k=2, preset="gpt-2-simple") == [0, 1]


def test_ties_at_the_border_stay_where_the_original_compares_by_value():
    """The original masks `logits < smallest kept`, so equal logits stay together."""
    probs = [0.25, 0.25, 0.25, 0.25]
    assert kept(probs, top_k=1, preset="nanogpt") == [0, 1, 2, 3]
    assert kept(probs, top_p=0.3, preset="openai") == [0, 1, 2, 3]
    assert kept(probs, top_p=0.3, preset="gpt-2-simple") == [0, 1, 2, 3]


def test_presets_run_in_their_own_order():
    full = {"temperature": 0.5, "top_k": 5}
    assert Sampling(**full, top_p=0.5, preset="openai").order == (
        "temperature",
        "top_k",
        "top_p_narrow",
    )
    assert Sampling(**full, preset="nanogpt").order == ("temperature", "top_k")
    assert Sampling().order == ()
    assert Sampling(temperature=0, top_k=5, repetition_penalty=1.2).order == ("repetition_penalty",)


def test_an_order_of_one_s_own_is_obeyed():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    first = Sampling(temperature=3.0, top_p=0.6, processors=("temperature", "top_p"))
    last = Sampling(temperature=3.0, top_p=0.6, processors=("top_p", "temperature"))
    assert (process(logits, first, []) > -np.inf).sum() == 2
    assert (process(logits, last, []) > -np.inf).sum() == 2
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    assert (process(logits, first, []) > -np.inf).sum() == 2
    assert (process(logits, last, []) > -np.inf).sum() == 1


def test_presence_and_frequency_count_what_was_written_not_the_prompt():
    logits = np.zeros(5, np.float32)
    s = Sampling(presence_penalty=1.0, frequency_penalty=0.25)
    out = process(logits, s, [0, 1, 2, 2, 3], prompt_length=2)
    assert out.tolist() == [0, 0, -1.5, -1.25, 0]


def test_min_new_tokens_counts_from_the_prompt():
    s = Sampling(min_new_tokens=3, stop_tokens=(1,))
    logits = np.zeros(3, np.float32)
    assert np.isneginf(process(logits, s, [0, 0, 0, 0], prompt_length=2)[1])
    assert process(logits, s, [0, 0, 0, 0, 0], prompt_length=2)[1] == 0


def test_process_leaves_its_input_alone():
    logits, before = rows(count=1)[0], rows(count=1)[0]
    process(logits, Sampling(logit_bias={1: 5}, repetition_penalty=2.0, top_k=3), [1, 2, 3])
    assert np.array_equal(logits, before)


def test_a_draw_follows_the_probabilities():
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    s = Sampling(seed=5)
    drawn = [sampler.choose(logits, s, index, 0) for index in range(4000)]
    counts = np.bincount(drawn, minlength=4) / 4000
    assert np.abs(counts - [0.1, 0.2, 0.3, 0.4]).max() < 0.03


def test_the_random_stream_is_frozen():
    """Golden: a change here would make old records replay other texts."""
    values = [sampler.stream(*key).random() for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len(set(values)) == 4
    assert [round(v, 12) for v in values] == [round(v, 12) for v in STREAM]


STREAM = [0.011546754286331562, 0.3035680343067586, 0.8133540609793564, 0.21185954403345741]


def test_every_seed_has_a_stream_of_its_own():
    """Seeds from 2**63 up once went through float64 and met in one stream."""
    seeds = [2**63, 2**63 + 1, 2**64 - 1, 2**64 - 2, 2**53, 2**53 + 1]
    assert len({sampler.stream(seed, 0, 0).random() for seed in seeds}) == len(seeds)


def test_the_presets_keep_what_the_official_samplers_kept():
    """Golden: both systems' own sample.py in TensorFlow, on rows of 50,257 tokens.

    Their float32 sums decide what crosses p; with float64 sums most rows at 0.99 differ. A token
    at the border may fall either way on another processor, in one row of ten at most.
    """
    golden = json.loads((GOLDEN / "official_samplers.json").read_text())
    random = np.random.default_rng(5)
    found: dict[str, list[int]] = {"openai": [], "gpt-2-simple": []}
    for row in golden["rows"]:
        logits = (random.normal(size=50257) * random.choice([1, 2, 3, 5])).astype(np.float32)
        p = float(random.choice([0.5, 0.9, 0.95, 0.99, 1.0]))
        assert p == row["p"] and logits[0] == np.float32(row["first"])
        if p == 1:  # off here
            continue
        for preset, differences in found.items():
            left = process(logits, Sampling(top_p=p, preset=preset), [])
            differences.append(abs(int((left > -np.inf).sum()) - row[preset]))
    for differences in found.values():
        assert len(differences) > 40 and max(differences) <= 1
        assert sum(differences) <= len(differences) / 10


def test_gpt_2_simple_never_drops_a_logit_above_1000():
    """It writes 1000 over what is left out and takes the minimum for its border."""
    logits = np.array([2000, 3000, 500], np.float32)
    out = process(logits, Sampling(preset="gpt-2-simple", top_p=0.9), [])
    assert out.tolist() == [2000, 3000, -np.inf]


def test_none_is_off():
    assert Sampling(stop=None, bad_words=None, logit_bias=None) == Sampling()


def test_logits_that_are_no_numbers_are_named():
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="NaN or infinity at id 1"):
            process(np.array([0, bad, 1], np.float32), Sampling(top_p=0.9), [])


def test_settings_survive_json():
    s = Sampling(
        temperature=0.3,
        bad_words=((1, 2), (3,)),
        logit_bias={5: 1.5},
        stop=("\n", "END"),
        stop_tokens=(9,),
        processors=("logit_bias", "temperature", "bad_words"),
        seed=2**63,
    )
    assert Sampling.from_dict(json.loads(json.dumps(s.to_dict()))) == s


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 2}, "top_p is 2; it must be above 0 and at most 1"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "warm"}, "temperature is 'warm'"),
        ({"n": 0}, "n is 0"),
        ({"n": True}, "n is True"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"end_on": "word"}, "end_on is 'word'"),
        ({"early_stopping": "maybe"}, "early_stopping is 'maybe'"),
        ({"preset": "gpt-5"}, "preset 'gpt-5' is unknown"),
        ({"processors": ("magic",)}, "processor 'magic' is unknown"),
        ({"preset": "hf", "processors": ()}, "both name an order"),
        ({"preset": "nanogpt", "top_p": 0.5}, "top_p is set, but the preset 'nanogpt'"),
        ({"processors": ("top_k",), "top_p": 0.5}, "top_p is set, but the given processors"),
        ({"min_new_tokens": 9, "max_new_tokens": 5}, "min_new_tokens 9 is more than"),
        ({"n": 3, "num_beams": 2}, "n 3 is more than num_beams 2"),
        ({"stop": ("",)}, "one character of UTF-8 or more"),
        ({"stop_tokens": (-1,)}, "stop_tokens holds -1"),
        ({"bad_words": ((),)}, r"bad_words holds \(\)"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias holds"),
        ({"window_keep": 0}, "window_keep is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"repetition_penalty": 1e39}, "repetition_penalty is 1e\\+39"),
        ({"temperature": 1e-40}, "temperature is 1e-40"),
        ({"length_penalty": 1e300}, "length_penalty is"),
        ({"num_beams": 10**30}, "num_beams is"),
        ({"logit_bias": 5}, "logit_bias is 5"),
        ({"logit_bias": {1: "x"}}, "logit_bias holds 1: 'x'"),
        ({"bad_words": 1.5}, "bad_words is 1.5"),
        ({"preset": []}, "preset \\[\\] is unknown"),
        ({"stop": ("\ud800",)}, "UTF-8"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Sampling(**settings)


def test_unknown_settings_are_listed():
    with pytest.raises(InputError, match="unknown setting 'top_q'"):
        Sampling.from_dict({"top_q": 1})


def test_ids_outside_the_vocabulary_are_named():
    logits = np.zeros(5, np.float32)
    with pytest.raises(InputError, match="id 9 is outside"):
        process(logits, Sampling(logit_bias={9: 1.0}), [])
    with pytest.raises(InputError, match="outside the vocabulary"):
        process(logits, Sampling(), [7])


def test_nothing_left_to_draw_is_an_error_not_a_nan():
    logits = process(np.zeros(2, np.float32), Sampling(bad_words=((0,), (1,))), [])
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="every token is ruled out"):
            sampler.choose(logits, Sampling(temperature=temperature, seed=0), 0, 0)


# ---- The fast ways, equal to what they were made from.


def written_out_top_p(logits, s, seen):
    """Every candidate sorted by its probability, and removed from the least likely on."""
    ex = np.exp((logits - np.max(logits)).astype(np.float64))
    probs, keep = ex / ex.sum(), min(seen.keep, len(logits))
    largest = probs >= np.partition(probs, -keep)[-keep]
    ids = np.flatnonzero((probs >= (1 - s.top_p) / len(probs)) | largest)
    ids = ids[np.argsort(probs[ids], kind="stable")]
    below = 1 - float(probs[ids].sum()) + np.cumsum(probs[ids])
    left = np.full(len(logits), -np.inf, np.float32)
    for kept in (ids[below > 1 - s.top_p], ids[-keep:]):
        left[kept] = logits[kept]
    return left


def written_out_penalties(logits, s, seen):
    """One token after the other, with counts over the whole vocabulary."""
    logits = logits.copy()
    tokens = np.unique(seen.tokens)
    old, penalty = logits[tokens], np.float32(s.repetition_penalty)
    logits[tokens] = np.where(old < 0, old * penalty, old / penalty)
    written = np.bincount(seen.tokens[seen.prompt_length :], minlength=len(logits))
    logits -= np.float32(s.presence_penalty) * (written > 0).astype(np.float32)
    logits -= np.float32(s.frequency_penalty) * written.astype(np.float32)
    size, tokens = s.no_repeat_ngram_size, list(seen.tokens)
    for i in range(len(tokens) - size + 1):
        if tokens[i : i + size - 1] == tokens[len(tokens) - size + 1 :]:
            logits[tokens[i + size - 1]] = -np.inf
    return logits


def written_out_draw(logits, share):
    """The inverse of the running sum of all that is left."""
    ids = np.flatnonzero(logits > -np.inf)
    heights = np.cumsum(np.exp((logits[ids] - np.max(logits[ids])).astype(np.float64)))
    place = np.searchsorted(heights, share * heights[-1], side="right")
    return int(ids[min(place, len(ids) - 1)])


def some_logits(random):
    """A row of one of many shapes: few or many tokens, flat or peaked, ties, removed tokens."""
    size = int(random.choice([1, 2, 40, 1000, 9000]))
    logits = random.normal(-30, random.choice([0.0, 0.1, 1, 3, 9]), size)
    if random.random() < 0.3:
        logits = np.round(logits)
    if random.random() < 0.2:
        logits[1:][random.random(size - 1) < 0.5] = -np.inf
    return logits.astype(np.float32)


@pytest.mark.parametrize("seed", range(300))
def test_the_fast_processors_equal_their_written_out_selves_bit_for_bit(seed):
    random = np.random.default_rng(seed)
    logits = some_logits(random)
    tokens = random.integers(0, min(len(logits), 30), random.integers(1, 60)).tolist()
    seen = History(tokens, int(random.integers(0, len(tokens))), int(random.choice([1, 1, 2, 5])))
    p = float(random.choice([1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-9]))
    s = Sampling(
        top_p=p,
        repetition_penalty=float(random.choice([0.7, 1.3])),
        presence_penalty=0.4,
        frequency_penalty=0.3,
        no_repeat_ngram_size=int(random.integers(1, 5)),
    )
    assert np.array_equal(processors.top_p(logits, s, seen), written_out_top_p(logits, s, seen))
    ours = logits
    for name in ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"):
        ours = processors.PROCESSORS[name](ours, s, seen)
    assert np.array_equal(ours, written_out_penalties(logits, s, seen))


@pytest.mark.parametrize("seed", range(100))
def test_a_draw_is_the_inverse_of_the_plain_running_sum(seed):
    """Also where many tokens are left, and blocks of them are added up instead."""
    random = np.random.default_rng(seed)
    logits = some_logits(random)
    if not logits.max() > -np.inf:
        return
    for step in range(20):
        share = sampler.stream(seed, 0, step).random()
        expected = written_out_draw(logits, share)
        assert sampler.draw(logits, sampler.stream(seed, 0, step)) == expected


def test_a_share_right_at_a_border_is_left_to_the_plain_running_sum():
    """Blocks round otherwise; within the rounding of a border they must not decide."""
    random = np.random.default_rng(0)
    weights = np.exp(random.normal(0, 2, 20_000))
    heights = np.cumsum(weights)
    near = heights[random.integers(0, len(weights), 300)] / heights[-1]
    for share in (*near, *np.nextafter(near, 0), *np.nextafter(near, 1), 0.0, 1 - 2.0**-53):
        assert sampler._place_by_blocks(weights, share) == sampler._place(weights, share)


@pytest.mark.parametrize("seed", range(40))
def test_the_log_probability_of_one_token_has_the_bits_of_log_softmax(seed):
    logits = some_logits(np.random.default_rng(seed))
    if seed % 2:
        logits = np.concatenate([logits, logits])[: len(logits)]  # a view, as engines may give
    for token in {0, len(logits) // 2, len(logits) - 1, int(np.argmax(logits))}:
        expected = float(sampler.log_softmax(logits)[token])
        assert sampler.log_probability(logits, token) == expected


@pytest.mark.parametrize("limit", [None, 250, 400])
def test_the_next_token_is_what_process_and_choose_give(limit):
    """The loop's short way around the checks, over logits that it must leave as they are."""
    for seed in range(60):
        random = np.random.default_rng(seed)
        logits = rows(seed)[seed % 6]
        logits[-1] = 30 if seed % 3 == 0 else logits[-1]  # the likeliest is beyond a limit
        before, tokens = logits.copy(), random.integers(0, V, 9).tolist()
        settings = {"temperature": float(random.choice([0, 0.7])), "repetition_penalty": 1.2}
        s = Sampling(**settings, top_p=float(random.choice([0.5, 0.95])), seed=seed)
        allowed = np.where(np.arange(V) < (limit or V), logits, np.float32(-np.inf))
        expected = sampler.choose(process(allowed, s, tokens, prompt_length=4), s, 3, 5)
        found, logprob = sampler.next_token(logits, s, tokens, 4, 3, limit)
        assert found == expected
        assert logprob == float(sampler.log_softmax(logits)[found])
        assert np.array_equal(logits, before)
