"""A conversion keeps how a model behaves, or is refused in words that name what would be lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import gpt2lab
from gpt2lab import weights
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.text.bpe import byte_symbols
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_config import added_token
from gpt2lab.text.tokenizer_json import bpe_spec
from gpt2lab.weights import Checkpoint, likeness, tensors, tokenizer_files
from gpt2lab.weights.convert import convert
from tests.weights_helpers import tiny

SIZE = Config(n_vocab=270, n_ctx=12, n_embd=16, n_head=2, n_layer=2)
DIGITS = {"type": "Digits", "individual_digits": True}


def spec(specials=("<|endoftext|>",), added=()):
    """Bytes, the merge of "12" and further tokens."""
    symbols = {symbol: i for i, symbol in enumerate(byte_symbols())}
    vocab = {**symbols, "12": 256, "123": 257}
    ids = {name: 258 + i for i, name in enumerate((*specials, *added))}
    made = bpe_spec(vocab, [("1", "2"), ("12", "3")], {name: ids[name] for name in specials})
    made["added_tokens"] += [added_token(name, ids[name], False) for name in added]
    return made


def plain():
    return Tokenizer(spec())


def with_digits():
    made = spec()
    made["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [DIGITS, {**made["pre_tokenizer"]}],
    }
    return Tokenizer(made)


def lower_case():
    return Tokenizer({**spec(), "normalizer": {"type": "Lowercase"}})


def with_template():
    pieces = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]
    pieces += [{"Sequence": {"id": "A", "type_id": 0}}]
    token = {"id": "<|endoftext|>", "ids": [258], "tokens": ["<|endoftext|>"]}
    template = {"type": "TemplateProcessing", "single": pieces, "pair": [*pieces]}
    return {**spec(), "post_processor": {**template, "special_tokens": {"<|endoftext|>": token}}}


def stored(made=None, **settings):
    """A vocabulary beside a tokenizer_config.json."""
    with TemporaryDirectory() as folder:
        Tokenizer(made or spec()).save(Path(folder))
        if "add_bos_token" in settings:  # obeyed beside vocab.json and merges.txt alone
            Path(folder, "tokenizer.json").unlink()
        Path(folder, "tokenizer_config.json").write_text(
            json.dumps({"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", **settings})
        )
        return Tokenizer.load(folder)


def model(tokenizer=None, generation=None, params=None, **changes):
    config = replace(SIZE, **{"end_tokens": (258,), **changes})
    made = Checkpoint(config, {**tiny(config), **(params or {})}, tokenizer, "huggingface")
    made.generation = generation or {}
    return made


#: Behaviour -> the model that has it, and the formats that cannot hold it with the word they name.
BEHAVIOURS = {
    "GPT-2's vocabulary": (lambda: model(plain()), {}),
    "a pre-tokenizer": (lambda: model(with_digits()), {"openai": "vocabular"}),
    "a normalizer": (lambda: model(lower_case()), {"openai": "vocabular"}),
    "an added word": (lambda: model(Tokenizer(spec(added=("covid",)))), {"openai": "vocabular"}),
    "special tokens": (
        lambda: model(Tokenizer(spec(("<|endoftext|>", "<|user|>", "PAD")))),
        {},
    ),
    "a begin token": (
        lambda: model(stored(add_bos_token=True)),
        {"openai": "vocabular"},
    ),
    "a space before": (
        lambda: model(stored(add_prefix_space=True, tokenizer_class="GPT2Tokenizer")),
        {"openai": "vocabular"},
    ),
    "a template": (lambda: model(Tokenizer(with_template())), {"openai": "vocabular"}),
    "a clean-up": (lambda: model(stored(clean_up_tokenization_spaces=True)), {}),
    "a chat template": (lambda: model(stored(chat_template="{{ messages }}")), {}),
    "a length": (lambda: model(stored(model_max_length=8)), {}),
    "a token with a role": (
        lambda: model(stored(spec(("<|endoftext|>", "[PAD]")), pad_token="[PAD]")),
        {},
    ),
    "characters": (
        lambda: model(Tokenizer.characters("abc \n123"), end_tokens=()),
        {"openai": "vocabularies"},
    ),
    "no vocabulary": (lambda: model(), {}),
    "an end token": (lambda: model(plain(), end_tokens=(7,)), {}),
    "end tokens": (lambda: model(plain(), end_tokens=(7, 258)), {}),
    "no end token": (lambda: model(plain(), end_tokens=()), {}),
    "a start token": (lambda: model(plain(), start_token=9), {}),
    "greedy": (lambda: model(plain(), {"do_sample": False, "temperature": 0.7}), {}),
    "greedy as 0": (lambda: model(plain(), {"temperature": 0}), {}),
    "sampling": (lambda: model(plain(), {"do_sample": True, "top_k": 3}), {}),
    "bad words": (lambda: model(plain(), {"bad_words": ((5,), (6, 7))}), {}),
    "lengths": (lambda: model(plain(), {"max_length": 9, "min_length": 2}), {}),
    "beams": (lambda: model(plain(), {"num_beams": 3, "early_stopping": "never"}), {}),
    "a stop text": (lambda: model(plain(), {"stop": ("THE END",)}), {}),
    "epsilon": (
        lambda: model(plain(), layer_norm_epsilon=1e-6),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "layer_norm_epsilon"),
    ),
    "relu": (
        lambda: model(plain(), activation_function="relu"),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "activation_function"),
    ),
    "unscaled": (
        lambda: model(plain(), scale_attn_weights=False),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "scale_attn_weights"),
    ),
    "scaled by layer": (
        lambda: model(plain(), scale_attn_by_inverse_layer_idx=True),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "scale_attn_by_inverse_layer_idx"),
    ),
    "a narrow layer": (
        lambda: model(plain(), n_inner=24),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "n_inner"),
    ),
    "a wide layer": (lambda: model(plain(), n_inner=64), {}),
    "a head": (
        lambda: model(plain(), params={tensors.HEAD: tiny(SIZE, 3)["wte.weight"]}),
        dict.fromkeys(("openai", "nanogpt", "llmc"), "head"),
    ),
}
TEXTS = ("123 1 2 covid 12covid", "HELLO hello", "a<|user|>b PAD <|endoftext|>", "abc 12\n3")


def encoded(tokenizer, text):
    try:
        return None if tokenizer is None else tokenizer.encode(text, allowed_special="all")
    except InputError:
        return "refused"


def shown(tokenizer):
    """What a vocabulary does, beyond the end token and how it decodes."""
    texts = [encoded(tokenizer, text) for text in TEXTS]
    neutral = ("tokenizer_class", "eos_token", "bos_token")
    return texts, {k: v for k, v in tokenizer.settings.items() if k not in neutral and v}


@pytest.mark.parametrize("behaviour", list(BEHAVIOURS)[1:13])
def test_no_row_is_empty(behaviour):
    """The row "a space before" once held a vocabulary that puts none, and every format kept it."""
    tokenizer = BEHAVIOURS[behaviour][0]().tokenizer
    assert shown(tokenizer) != shown(plain())


@pytest.mark.parametrize("format", weights.writable())
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_in_every_format(tmp_path, behaviour, format):
    """Converted to openai, a model whose digits were split read "123" as one token in place of
    three, and --verify reported 100 %; converted to huggingface, a greedy one was sampled with."""
    make, refused = BEHAVIOURS[behaviour]
    one = make()
    weights.save(one, tmp_path / "source")
    if format in refused:
        with pytest.raises(InputError, match=refused[format]) as caught:
            convert(tmp_path / "source", tmp_path / "target", format)
        assert "convert to huggingface" in str(caught.value)
        assert not (tmp_path / "target").exists()
        return
    report = convert(tmp_path / "source", tmp_path / "target", format)
    other = gpt2lab.load(tmp_path / "target")
    assert [encoded(one.tokenizer, text) for text in TEXTS] == [
        encoded(other.tokenizer, text) for text in TEXTS
    ]
    ends = [tokenizer_files.marked(c, one.tokenizer)[0] for c in (one.config, other.config)]
    assert (ends[0].end_tokens, ends[0].begin) == (ends[1].end_tokens, ends[1].begin)
    if one.tokenizer is not None:
        assert one.tokenizer.settings.items() <= other.tokenizer.settings.items()
    assert likeness.settings(one) == likeness.settings(other.checkpoint)
    assert "encoded texts" in report.compared
    assert json.loads((tmp_path / "target" / "verify.json").read_text())["compared"]


@pytest.mark.parametrize("format", weights.writable())
def test_a_greedy_model_stays_greedy_through_every_format(tmp_path, format):
    weights.save(model(plain(), {"do_sample": False, "temperature": 1.5}), tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "target", format)
    lm = gpt2lab.load(tmp_path / "target")
    assert lm.settings().temperature == 0
    assert lm.settings(do_sample=True).temperature == 1.5


def test_what_differs_is_named():
    one = model(plain(), {"top_k": 3})
    assert likeness.differences(one, one) == []
    other = model(None, {"top_k": 4}, end_tokens=(3,))
    assert likeness.differences(one, other) == [
        "the vocabulary (one of the two has none that can be read)",
        "end_tokens (258)",
        "begin 258",
        "the recommended top_k 3",
    ]
    [said] = likeness.differences(model(with_digits()), model(plain()))
    assert said.startswith("the vocabulary ('123 4567")
    [said] = likeness.differences(model(Tokenizer(spec(added=("covid",)))), model(plain()))
    assert "covid" in said
