"""The model object: one path from a prompt to a text, records that replay, other systems' names."""

from __future__ import annotations

import json
import os
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import gpt2lab
from gpt2lab import InputError, Sampling, reference, weights
from gpt2lab.files import file_facts
from gpt2lab.files.kept import cache_folder
from gpt2lab.generation.aliases import translate
from gpt2lab.generation.request import requests
from gpt2lab.generation.sampler import log_softmax
from gpt2lab.lm import LM
from gpt2lab.weights import checkpoint

from .support import FABLE, TINY, drawn, tiny_params


@pytest.fixture(scope="module")
def lm():
    return gpt2lab.load()


def model(**options):
    """A tiny model without a tokenizer and without an end token."""
    return LM(weights.Checkpoint(TINY, tiny_params(), None, "huggingface"), **options)


def test_tokens_pieces_and_the_object_agree(lm):
    settings = {"max_new_tokens": 20, "seed": 3, "temperature": 0.9}
    text = lm.generate("The dog", **settings)
    [done] = lm.complete("The dog", **settings)
    pieces = list(lm.stream("The dog", **settings))
    s, prompt = lm.settings(**settings), lm.tokenizer.encode("The dog")
    assert text == done.text == "".join(piece.text for piece in pieces)
    asked = requests([prompt], s, lm.config, lm.tokenizer)
    assert done.tokens == [token.id for token in drawn(lm.engine, [prompt], asked[0].sampling)]
    assert done.tokens == [piece.token for piece in pieces]
    assert lm.tokenizer.decode(done.tokens) == text
    assert pieces[-1].finish_reason == done.finish_reason == "length"
    assert pieces[-1].new_tokens == 20 and pieces[-1].prompt_tokens == len(prompt)


def test_prompts_come_as_texts_ids_arrays_and_lists_of_them(lm):
    settings = {"max_new_tokens": 5, "seed": 1}
    ids = lm.tokenizer.encode("A cat")
    expected = lm.generate("A cat", **settings)
    for given in ("A cat", ids, np.array(ids), ["A cat"], [ids], [np.array(ids)]):
        [done] = lm.complete(given, **settings)
        assert done.text == expected
    two = lm.complete(["A cat", ids, None], n=2, **settings)
    assert [(done.prompt, done.index) for done in two] == [(p, i) for p in range(3) for i in (0, 1)]
    assert two[0].text == two[2].text == expected
    texts = lm.generate("A cat", n=3, **settings)
    assert isinstance(texts, list) and texts[0] == expected and len(set(texts)) > 1


def test_neighbours_change_nothing(lm):
    """The complaint of a decade: padded batches gave other, worse text."""
    prompts = ["The dog", "Once upon a time, in a far away land, there was", "A"]
    together = lm.complete(prompts, max_new_tokens=15, seed=2, n=2)
    for place, prompt in enumerate(prompts):
        alone = lm.complete(prompt, max_new_tokens=15, seed=2, n=2)
        assert [d.tokens for d in alone] == [d.tokens for d in together if d.prompt == place]
        assert [d.logprobs for d in alone] == [d.logprobs for d in together if d.prompt == place]


def test_a_record_replays_through_json(lm):
    for settings in ({"n": 3}, {"num_beams": 3, "n": 2}, {"stop": ("a",)}, {"preset": "openai"}):
        for done in lm.complete("The dog", max_new_tokens=12, **settings):
            record = json.loads(json.dumps(done.record))
            again = lm.replay(record)
            assert (again.text, again.tokens, again.logprobs) == (
                done.text,
                done.tokens,
                done.logprobs,
            )
            assert again.record == done.record
            assert record["model"]["sha256"] == lm.hash and record["seed"] is not None


def test_a_record_states_the_window(lm):
    [done] = lm.complete("The dog", max_new_tokens=530, seed=1, stop_tokens=(), window_keep=0.25)
    assert len(done.tokens) == 530
    assert done.record["window"] == {"n_ctx": 512, "keep": 128, "slides": 1}


def test_another_model_s_record_is_refused(lm):
    [done] = model().complete([[1, 2]], max_new_tokens=2)
    with pytest.raises(InputError, match="load that model"):
        lm.replay(done.record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: None, "it is NoneType"),
        (lambda r: {}, "'model' is missing"),
        (lambda r: {**r, "model": "x"}, "'model' is missing or damaged"),
        (lambda r: {**r, "settings": []}, "'settings' is missing or damaged"),
        (lambda r: {**r, "prompt_tokens": 5}, "'prompt_tokens' is missing or damaged"),
        (lambda r: {**r, "prompt_tokens": [1.5]}, "holds 1.5"),
        (lambda r: {**r, "index": "a"}, "index is 'a'"),
        (lambda r: {**r, "index": -1}, "index is -1"),
        (lambda r: {**r, "engine": {**r["engine"], "dtype": "float64"}}, "dtype float64"),
        (lambda r: {**r, "settings": {}}, "lack max_new_tokens"),
        (lambda r: {**r, "settings": {**r["settings"], "logit_bias": [1]}}, "logit_bias"),
        (lambda r: {**r, "settings": {**r["settings"], "stop": 5}}, "stop holds 5"),
        (lambda r: {**r, "settings": {**r["settings"], "num_beams": 10**30}}, "num_beams is"),
    ],
)
def test_a_damaged_record_is_named(lm, change, message):
    [done] = lm.complete("A", max_new_tokens=2, seed=1)
    with pytest.raises(InputError, match=message):
        lm.replay(change(json.loads(json.dumps(done.record))))


@pytest.mark.parametrize(
    "prompt", [1.5, b"ab", {5, 6}, {"a": 1}, [1.5], ["5"], [True], [[1.5]], [None, 5.5], object()]
)
def test_prompts_of_a_wrong_kind_are_refused(lm, prompt):
    for call in (lm.generate, lm.complete, lm.score):
        if call in (lm.complete, lm.score) and prompt == ["5"]:
            continue  # a list of texts
        with pytest.raises(InputError):
            call(prompt)


def test_a_batch_of_no_rows_is_refused(lm):
    with pytest.raises(InputError, match="batch_size is 0"):
        lm.complete("a", batch_size=0)


def test_do_sample_with_beams_samples(lm, caplog):
    [done] = lm.complete("a", num_beams=2, do_sample=True, max_new_tokens=2)
    assert "temperature 1" in caplog.text
    assert done.record["settings"]["temperature"] == 1.0


def test_a_checkpoint_s_own_beams_search(lm):
    other = LM(replace(lm.checkpoint, generation={"num_beams": 2}))
    assert other.settings().temperature == 0 and other.settings(temperature=0.5).temperature == 0.5


def test_recommendations_give_way_to_what_was_asked_for(lm, caplog):
    def settings(recommended, **given):
        return LM(replace(lm.checkpoint, generation=recommended)).settings(**given)

    assert settings({"min_new_tokens": 10}, max_new_tokens=5).min_new_tokens == 5
    assert settings({"num_beams": 2}, n=3).num_beams == 3
    assert settings({"temperature": 0.7}, num_beams=2, preset="hf").temperature == 0
    assert "recommend temperature, which counts for nothing" in caplog.text
    assert settings({"temperature": 0}, do_sample=True).temperature == 1.0
    assert settings({"stop": ("END",)}, stop_tokens=()).stop == ()


def test_a_model_without_a_tokenizer_ignores_a_recommended_stop_text():
    """A run of gpt-2-simple without its vocabulary could not write at all."""
    checkpoint = weights.Checkpoint(TINY, tiny_params(), None, "gpt2simple")
    checkpoint.generation = {"stop": ("<|endoftext|>",)}
    [done] = LM(checkpoint).complete([[1, 2]], max_new_tokens=3, seed=0)
    assert len(done.tokens) == 3


def test_records_of_numpy_numbers_are_plain(lm):
    settings = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "seed": np.uint64(7)}
    [done] = lm.complete("A", stop_tokens=[np.int64(3)], logit_bias={5: np.float32(1)}, **settings)
    assert lm.replay(json.loads(json.dumps(done.record))).text == done.text


def test_a_checkpoint_s_stop_text_stays_beside_one_s_own(lm):
    other = LM(replace(lm.checkpoint, generation={"stop": ("<|endoftext|>",)}))
    assert other.settings(stop="X").stop == ("X", "<|endoftext|>")


def test_where_a_document_begins_and_ends_may_differ(lm):
    config = replace(lm.config, end_tokens=(7, 8), start_token=9)
    other = LM(replace(lm.checkpoint, config=config))
    assert other.encode(None) == [9]
    expected = reference.model(config, lm.params, [[9]])["logits"][0, 0]
    first = other.score("The", after_end=True).logprobs[0]
    assert first == pytest.approx(log_softmax(expected)[other.encode("The")[0]], abs=1e-5)


def test_the_threads_of_a_program_do_not_disturb_each_other(lm):
    settings = {"max_new_tokens": 20, "temperature": 1.0}
    expected = [lm.generate("The dog", seed=seed, **settings) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: lm.generate("The dog", seed=seed, **settings), range(4)))
    assert found == expected


def test_the_hash_is_of_the_weights_not_of_the_file(lm, tmp_path):
    checkpoint = weights.load(FABLE)
    weights.save(checkpoint, tmp_path / "llmc.bin", "llmc")
    assert gpt2lab.load(tmp_path / "llmc.bin").hash == lm.hash == gpt2lab.load(str(FABLE)).hash
    changed = weights.load(FABLE)
    changed.params = dict(changed.params)
    changed.params["ln_f.bias"] = changed.params["ln_f.bias"] + 1
    assert LM(changed).hash != lm.hash


def test_a_model_without_a_tokenizer_takes_and_gives_ids():
    lm = model()
    [done] = lm.complete([[1, 2, 3]], max_new_tokens=4, seed=0)
    assert len(done.tokens) == 4 and done.text == ""
    for call in (lambda: lm.generate("text"), lambda: lm.score("text")):
        with pytest.raises(InputError, match="without a tokenizer"):
            call()
    with pytest.raises(InputError, match="no end token to begin from"):
        lm.generate()
    with pytest.raises(InputError, match="work on text"):
        lm.complete([[1]], stop=("x",))
    assert lm.score([1, 2, 3]).n_scored == 2


def test_defaults_are_for_writing_and_presets_are_neutral(lm):
    s = lm.settings()
    assert (s.temperature, s.top_p) == (0.7, 0.95)
    s = lm.settings(preset="openai")
    assert (s.temperature, s.top_p) == (1.0, 1.0)
    assert lm.settings(num_beams=3).temperature == 0
    assert lm.settings(num_beams=3, temperature=0.5).temperature == 0.5


def test_what_a_checkpoint_recommends_is_taken(lm, caplog):
    checkpoint = replace(lm.checkpoint, generation={"stop": ("<|endoftext|>",), "temperature": 0.3})
    other = LM(checkpoint)
    assert other.settings().temperature == 0.3 and other.settings().stop == ("<|endoftext|>",)
    assert other.settings(preset="openai").stop == ("<|endoftext|>",)
    assert "recommend temperature" in caplog.text
    assert other.settings(stop=()).stop == ()


def test_empty_and_absent_prompts(lm):
    with pytest.raises(InputError, match="the prompt is empty"):
        lm.generate("")
    with pytest.raises(InputError, match="no prompts"):
        lm.complete([])
    assert lm.generate(max_new_tokens=4, seed=0)
    assert lm.encode(None) == [4095]


def test_logits_have_the_model_s_dtype(lm):
    assert lm.logits([[1, 2, 3]]).shape == (1, 3, 4096)
    assert lm.logits([[1, 2, 3]]).dtype == np.float32
    double = gpt2lab.load(dtype="float64")
    assert double.logits([[1, 2, 3]]).dtype == np.float64
    assert np.abs(double.logits([[1, 2, 3]]) - lm.logits([[1, 2, 3]])).max() < 1e-4


def test_a_thousand_generations_keep_their_memory():
    """Others rebuilt a graph on every call and grew until they were killed."""
    lm = model()

    def held(count):
        """Bytes that Python holds after so many generations more."""
        for seed in range(count):
            lm.complete([[1, 2, 3]], max_new_tokens=2, seed=seed)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        held(50)
        before = held(50)
        after = held(900)
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


# ---- Other systems' names.


def test_other_names_are_translated_with_one_note(caplog):
    given = {"max_length": 30, "do_sample": False, "num_return_sequences": 2, "pad_token_id": 0}
    for _ in range(2):
        assert translate(given, 10) == {"max_new_tokens": 20, "temperature": 0, "n": 2}
    assert len(caplog.messages) == 4
    given = {"eos_token_id": 5, "stop_strings": "x", "top_k": None, "length": 3}
    s = Sampling(**translate(given))
    assert (s.stop_tokens, s.stop, s.top_k, s.max_new_tokens) == ((5,), ("x",), 0, 3)
    assert translate({"do_sample": False, "temperature": 0.5}) == {"temperature": 0}
    given = {"length": int("3000"), "max_new_tokens": int("3000")}  # equal, and not one object
    assert translate(given) == {"max_new_tokens": 3000}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": 5}, "counts the prompt of 10 tokens"),
        ({"length": 5, "max_new_tokens": 6}, "max_new_tokens is given twice"),
        ({"temprature": 1}, "did you mean temperature"),
    ],
)
def test_names_that_clash_or_mean_nothing(given, message):
    with pytest.raises(InputError, match=message):
        translate(given, 10)


def test_the_object_warns_once_for_a_translated_name(lm, caplog):
    [done] = lm.complete("A cat", max_length=12, seed=0)
    assert caplog.text.count("max_length 12 is taken as max_new_tokens") == 1
    assert len(done.prompt_tokens) + len(done.tokens) == 12
    with pytest.raises(InputError, match="differ in length"):
        lm.complete(["A", "A cat sat"], max_length=12)


def test_generate_response_is_the_seed_s_function():
    text = gpt2lab.generate_response("Once upon a time", length=8, temperature=0)
    assert text == gpt2lab.load().generate("Once upon a time", max_new_tokens=8, temperature=0)


def test_a_text_alone_does_not_read_the_whole_model(lm, monkeypatch):
    """The hash is the record's; generate() and stream() give none, so they make none."""
    other = LM(lm.checkpoint)
    monkeypatch.setattr(checkpoint, "_hash", lambda *rest: pytest.fail("the model was hashed"))
    assert other.generate("A", max_new_tokens=2, seed=0)
    assert list(other.stream("A", max_new_tokens=2, seed=0))


def test_the_hash_of_a_large_file_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr(file_facts, "WORTH", 0)
    monkeypatch.setattr(file_facts, "SETTLED", -1.0)
    weights.save(weights.Checkpoint(TINY, tiny_params(), None, "huggingface"), tmp_path / "m")
    found = weights.load(tmp_path / "m")
    honest = LM(replace(found, source=None)).hash
    assert LM(found).hash == honest
    monkeypatch.setattr(checkpoint, "_hash", lambda *rest: "worked out")
    assert LM(weights.load(tmp_path / "m")).hash == honest
    assert LM(replace(found, config=replace(TINY, end_tokens=(7,)))).hash == "worked out"
    changed = {**found.params, "ln_f.bias": found.params["ln_f.bias"] + 1}
    assert LM(replace(found, params=changed)).hash == "worked out"
    copied = {name: array.copy() for name, array in found.params.items()}
    assert LM(replace(found, params=copied)).hash == "worked out"


@pytest.mark.skipif(os.name == "nt", reason="rights are told otherwise there")
def test_the_cache_folder_is_the_user_s_own(tmp_path, monkeypatch):
    """What lies in it may be code, so nobody else may have put it there."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    usual = tmp_path / "xdg" / "gpt2lab" / "x"
    assert cache_folder("x") == usual and stat.S_IMODE(usual.stat().st_mode) == 0o700
    usual.chmod(0o777)
    other = cache_folder("x")
    assert other == temporary / f"gpt2lab-{os.getuid()}" / "x"
    assert stat.S_IMODE(other.parent.stat().st_mode) == 0o700
    other.rmdir()
    other.symlink_to(tmp_path)
    with pytest.raises(gpt2lab.Failure, match="no folder for caches"):
        cache_folder("x")


def test_a_relative_cache_home_is_ignored_as_its_specification_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    if os.name != "nt":
        assert cache_folder("x") == tmp_path / "home" / ".cache" / "gpt2lab" / "x"
        assert not (tmp_path / "here").exists()
