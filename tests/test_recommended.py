"""What generation_config.json and older config.json files recommend: obeyed, or named in a note."""

from __future__ import annotations

import json
import warnings

import pytest

import gpt2lab
from gpt2lab import weights
from gpt2lab.weights import recommended
from tests.weights_helpers import config_json, hf_safe


def folder_with(folder, generation=None, **changes):
    hf_safe(folder)
    config_json(folder, eos_token_id=60, **changes)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def settings(folder, prompt_length=0, **given):
    return gpt2lab.load(folder).settings(prompt_length, **given)


@pytest.mark.parametrize("place", ["generation_config.json", "config.json", "task_specific_params"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"do_sample": False, "temperature": 0.7, "top_k": 9}, {"temperature": 0}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 9}, {"temperature": 0.7, "top_k": 9}),
        ({"do_sample": True, "num_beams": 2}, {"temperature": 1.0, "num_beams": 2}),
        ({"do_sample": False, "num_beams": 2}, {"temperature": 0, "num_beams": 2}),
        ({"bad_words_ids": [[3], [4, 5], [60]]}, {"bad_words": ((3,), (4, 5))}),
        ({"suppress_tokens": [3, 60]}, {"bad_words": ((3,), (60,))}),
        ({"max_length": 9, "min_length": 7}, {"max_new_tokens": 4, "min_new_tokens": 2}),
        ({"max_length": 9, "max_new_tokens": 6}, {"max_new_tokens": 6}),
        ({"min_length": 200}, {"max_new_tokens": 128, "min_new_tokens": 128}),
        ({"typical_p": 0.5, "epsilon_cutoff": 0.1}, {"typical_p": 0.5, "epsilon_cutoff": 0.1}),
        ({"eta_cutoff": 0.1, "min_p": 0.1}, {"eta_cutoff": 0.1, "min_p": 0.1}),
        (
            {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
            {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
        ),
    ],
)
def test_what_the_files_recommend_is_obeyed(tmp_path, place, said, expected):
    """`do_sample: false` beside a temperature was sampled with, and bad_words_ids, suppress_tokens,
    max_length and min_length did nothing, without a word. Before generation_config.json existed
    they stood in config.json, at the top or under task_specific_params."""
    if place == "generation_config.json":
        folder = folder_with(tmp_path / "model", said)
    elif place == "config.json":
        folder = folder_with(tmp_path / "model", **said)
    else:
        tasks = {"text-generation": said, "summarization": {"max_length": 3}}
        folder = folder_with(tmp_path / "model", task_specific_params=tasks)
    s = settings(folder, 5)
    assert {key: getattr(s, key) for key in expected} == expected
    assert not weights.load(folder).notes[1:]  # the first says that there is no vocabulary


def test_a_greedy_recommendation_gives_the_same_text_each_time(tmp_path):
    lm = gpt2lab.load(folder_with(tmp_path / "m", {"do_sample": False, "temperature": 1.5}))
    texts = {tuple(lm.complete([1, 2, 3], max_new_tokens=6)[0].tokens) for _ in range(5)}
    assert texts == {tuple(lm.complete([1, 2, 3], max_new_tokens=6, temperature=0)[0].tokens)}


@pytest.mark.parametrize("generation", [{"bad_words_ids": [[7]]}, {"suppress_tokens": [7]}])
def test_a_forbidden_token_is_as_transformers_has_it(tmp_path, generation):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    plain = gpt2lab.load(folder_with(tmp_path / "plain", {"do_sample": False}))
    first = plain.complete([1, 2, 3], max_new_tokens=1)[0].tokens[0]
    said = {key: [[first]] if key == "bad_words_ids" else [first] for key in generation}
    folder = folder_with(tmp_path / "m", {"do_sample": False, **said})
    ours = gpt2lab.load(folder).complete([1, 2, 3], max_new_tokens=6)[0].tokens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        theirs = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=6, pad_token_id=0)
    assert ours == theirs[0, 3:].tolist() and first not in ours


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 0.9}, {"temperature": 0.9}),
        ({"do_sample": True}, {"temperature": 0.7}),
        ({"max_new_tokens": 3}, {"max_new_tokens": 3, "temperature": 0}),
        ({"max_length": 8}, {"max_new_tokens": 3}),
        ({"bad_words": []}, {"bad_words": ()}),
    ],
)
def test_what_the_caller_says_wins(tmp_path, given, expected):
    said = {"do_sample": False, "temperature": 0.7, "max_length": 11, "bad_words_ids": [[3]]}
    s = settings(folder_with(tmp_path / "model", said), 5, **given)
    assert {key: getattr(s, key) for key in expected} == expected


def test_a_preset_keeps_forbidden_words_and_names_what_it_drops(tmp_path, caplog):
    """A preset or an order of processors dropped every recommendation in silence, bad_words too."""
    values = {"bad_words_ids": [[5]], "suppress_tokens": [6], "do_sample": True, "top_k": 3}
    lm = gpt2lab.load(folder_with(tmp_path / "model", generation=values))
    for given, bad, said in (
        ({"preset": "hf"}, ((5,), (6,)), "recommend top_k, which"),
        ({"processors": ["bad_words", "temperature"]}, ((5,), (6,)), "beside processors"),
        ({"preset": "openai"}, (), "recommend top_k, bad_words, which"),
        ({"preset": "openai", "top_k": 2}, (), "recommend bad_words, which"),
    ):
        caplog.clear()
        s = lm.settings(**given)
        assert said in caplog.text
        assert (s.bad_words, s.top_k) == (bad, given.get("top_k", 0))
    caplog.clear()
    assert lm.settings(preset="hf", top_k=1).bad_words == ((5,), (6,)) and not caplog.records


def test_a_prompt_longer_than_the_recommended_length_is_told(tmp_path, caplog):
    lm = gpt2lab.load(folder_with(tmp_path / "model", {"max_length": 5}))
    assert lm.settings(5).max_new_tokens == 128
    assert "recommend max_length 5, which this prompt of 5 tokens" in caplog.text
    caplog.clear()
    assert lm.settings(5, max_new_tokens=2).max_new_tokens == 2 and not caplog.records


def test_one_note_names_what_is_not_obeyed(tmp_path):
    """Nothing may be passed over in silence that would change a text; names that change none and
    values that are off need no word."""
    obeyed_by_none = {"forced_eos_token_id": 60, "penalty_alpha": 0.6, "guidance_scale": 1.5}
    obeyed_by_none |= {"num_return_sequences": 3, "a_new_setting": 1, "begin_suppress_tokens": [1]}
    off = {"diversity_penalty": 0.0, "num_beam_groups": 1, "watermarking_config": None}
    harmless = {
        "use_cache": True,
        "pad_token_id": 0,
        "transformers_version": "5",
        "eos_token_id": 60,
    }
    folder = folder_with(tmp_path / "model", {**obeyed_by_none, **off, **harmless})
    [note] = [note for note in weights.load(folder).notes if "does not obey" in note]
    assert note == (
        "generation_config.json sets forced_eos_token_id, penalty_alpha, guidance_scale, "
        "num_return_sequences, a_new_setting and 1 more, which this GPT-2 does not obey"
    )
    plain = folder_with(tmp_path / "plain", {**off, **harmless})
    assert not any("obey" in note for note in weights.load(plain).notes)
    old = folder_with(tmp_path / "old", forced_bos_token_id=3, num_return_sequences=2)
    assert any(note.startswith("config.json sets ") for note in weights.load(old).notes)


def test_a_temperature_without_do_sample_is_sampled_with_and_told(tmp_path):
    folder = folder_with(tmp_path / "model", {"temperature": 0.7})
    assert settings(folder).temperature == 0.7
    assert any("sets a temperature but no do_sample" in note for note in weights.load(folder).notes)


def test_the_defaults_that_old_files_list_recommend_nothing(tmp_path):
    """transformers 2 wrote each of its defaults into config.json, and OpenAI's config.json, which
    every tuned model inherits, gives a length of 50 for a demonstration."""
    dump = {"do_sample": False, "max_length": 20, "num_beams": 1, "temperature": 1.0, "top_k": 50}
    dump |= {"top_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "min_length": 0}
    tasks = {"text-generation": {"do_sample": True, "max_length": 50}}
    folder = folder_with(tmp_path / "model", **dump, task_specific_params=tasks)
    assert weights.load(folder).generation == {}
    hot = folder_with(tmp_path / "hot", **{**dump, "temperature": 0.7})
    assert weights.load(hot).generation == {"do_sample": False, "temperature": 0.7}


@pytest.mark.parametrize(
    ("wrong", "kept"),
    [
        ({"bad_words_ids": [[3], [61]]}, {"bad_words": ((3,),)}),
        ({"bad_words_ids": [3]}, {}),
        ({"bad_words_ids": "x"}, {}),
        ({"suppress_tokens": [-1, 4]}, {"bad_words": ((4,),)}),
        ({"suppress_tokens": [[4]]}, {}),
        ({"do_sample": "no"}, {}),
        ({"max_length": -5}, {}),
        ({"min_length": 1.5}, {}),
    ],
)
def test_a_recommendation_that_cannot_be_is_passed_over_with_a_note(tmp_path, wrong, kept):
    loaded = weights.load(folder_with(tmp_path / "model", wrong))
    assert loaded.generation == kept
    assert any("passed over" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "generation",
    [
        {},
        {"do_sample": False},
        {"do_sample": True},
        {"do_sample": False, "temperature": 0.7, "top_k": 5},
        {"do_sample": True, "temperature": 0.7, "min_p": 0.1},
        {"bad_words": ((3,), (4, 5)), "max_length": 30, "min_length": 2},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.5},
        {"stop": ("THE END",), "max_new_tokens": 7, "do_sample": False},
        {"typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "do_sample": True},
    ],
)
def test_recommendations_survive_a_round_trip(tmp_path, generation):
    """A greedy recommendation came back as no recommendation, and was sampled with."""
    loaded = weights.load(folder_with(tmp_path / "model"))
    loaded.generation = generation
    weights.save(loaded, tmp_path / "again")
    again = weights.load(tmp_path / "again")
    assert again.generation == generation
    assert json.loads((tmp_path / "again" / recommended.FILE).read_text())["eos_token_id"] == 60


def test_one_of_many_prompts_is_named(tmp_path):
    """One prompt of a file that was too long refused all of them, and nobody knew which."""
    from gpt2lab.errors import InputError

    lm = gpt2lab.load(folder_with(tmp_path / "model"))
    with pytest.raises(InputError, match=r"^prompt 2: the prompt has 40 tokens"):
        lm.complete([[1, 2], [3] * 40])
    with pytest.raises(InputError, match=r"^line 7: the prompt has 40 tokens"):
        lm.requests([[1, 2], [3] * 40], "refuse", {}, names=["line 4", "line 7"])
    with pytest.raises(InputError, match=r"^the prompt has 40 tokens"):
        lm.generate([3] * 40)
