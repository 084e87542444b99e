"""`gpt2lab look`: what it shows, as JSON, as a page, over a run; wrong input leaves nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import gpt2lab
from gpt2lab import lens, weights
from gpt2lab.commands import looking
from gpt2lab.lens import over_training

from .support import TINY, tiny_params
from .test_commands import fails

PROMPT = "The little fox saw the"


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load(engine="numpy")


# ---- A prompt.


def test_the_terminal_shows_what_the_functions_say(run, fable):
    code, out, err = run("look", PROMPT)
    assert (code, err) == (0, "")
    trace = fable.trace(PROMPT)
    seen = lens.next_tokens(trace)
    for text, p in seen.names(seen.next)[:10]:
        assert re.search(rf"^{re.escape(text)} +{p:.2%}", out, re.MULTILINE), text
    for i, row in enumerate(seen.expected[1:-1], 1):
        assert f"{row.surprisal:>9.3f} {row.probability:>11.2%} {row.rank:>6}" in out, i
    parts = lens.attribution(trace, by="head")
    for label, value in parts.top(8):
        assert re.search(rf"{re.escape(label)} +{re.escape(f'{value:+.3f}')}", out)
    assert "\x1b" not in out  # no colours where nobody sees them


def test_the_lens_has_layers_down_and_positions_across(run, fable):
    out = run("look", "The fox saw")[1]
    table = out.partition("Logit lens")[2].partition("Direct effect")[0].splitlines()
    read = lens.logit_lens(fable.trace("The fox saw"))
    for n, name in enumerate(["embed", "0", "1", "2", "3", "4", "5"]):
        row = next(line for line in table if line.split()[:1] == [name])
        for piece in read.pieces[n]:
            assert looking.clean(piece)[:9].strip() in row


def test_colours_when_asked_for(run):
    out = run("look", PROMPT, "--color", "always")[1]
    assert "\x1b[48;5;" in out and "surprisal in nats" in out
    assert "\x1b" not in run("look", PROMPT, "--color", "never")[1]
    fails(run("look", PROMPT, "--color", "blue"), "'blue'", "auto, always or never")


def test_json_is_the_functions_values(run, fable):
    told = json.loads(run("look", PROMPT, "--json", "--top", "3")[1])
    trace = fable.trace(PROMPT)
    assert told["tokens"] == trace.tokens[0].tolist()
    assert told["next_tokens"] == lens.next_tokens(trace, 3).to_dict()
    assert told["logit_lens"] == lens.logit_lens(trace, top=3).to_dict()
    assert told["attribution"] == lens.attribution(trace, by="head").to_dict()
    assert told["head_scores"] == lens.head_scores(fable, batch=1).to_dict()
    assert told["acts"] == []


def test_what_is_asked_of_the_attribution(run, fable):
    words = ("--token", " dog", "--against", " boy", "--position", "2")
    told = json.loads(run("look", PROMPT, "--json", *words)[1])["attribution"]
    expected = lens.attribution(fable.trace(PROMPT), " dog", against=" boy", position=2, by="head")
    assert told == expected.to_dict()
    assert sum(told["parts"].values()) == pytest.approx(told["logit"], abs=1e-4)


def test_heads_can_be_silenced_and_scaled(run, fable):
    words = ("--silence", "4.1", "--silence", "5.2", "--scale", "0.0=0.5")
    told = json.loads(run("look", PROMPT, "--json", *words)[1])
    acts = [
        lens.silence_heads(4, 1), lens.silence_heads(5, 2), lens.scale_heads(0, 0, 0.5),
    ]  # fmt: skip
    other = fable.acting(*acts)
    assert told["next_tokens"] == lens.next_tokens(other.trace(PROMPT)).to_dict()
    assert len(told["acts"]) == 3


def test_an_acted_model_says_so_and_shows_the_plain_numbers_beside(run, fable):
    """Once `--silence` changed every number and said so nowhere: a screenshot told a lie."""
    code, out, err = run("look", PROMPT, "--silence", "5.1")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "head 5.1 silenced; plain: the model without that"
    acted = lens.next_tokens(fable.acting(lens.silence_heads(5, 1)).trace(PROMPT))
    plain = lens.probabilities(fable, fable.encode(PROMPT))
    for (text, p), (token, _) in zip(acted.names(acted.next), acted.next.alternatives, strict=True):
        told = rf"^{re.escape(text)} +{p:.2%}  plain +{plain[-1][token]:.2%}"
        assert re.search(told, out, re.MULTILINE), text
    found = json.loads(run("look", PROMPT, "--silence", "5.1", "--json")[1])["plain"]
    assert found["tokens"][1:] == pytest.approx(
        [float(plain[i][token]) for i, token in enumerate(fable.encode(PROMPT)[1:])]
    )
    assert json.loads(run("look", PROMPT, "--json")[1])["plain"] is None


def test_a_token_that_is_likelier_with_a_space_is_noted(run):
    """`--token Max` silently took 'Max' where ' Max' was meant."""
    text = "Anna and Max went to the park. They saw a big dog. Anna and"
    code, _, err = run("look", text, "--token", "Max")
    assert code == 0 and "' Max', it is a token too, and more probable here" in err
    assert run("look", text, "--token", " Max")[2] == ""


def test_after_the_end_token_it_is_the_score(run, fable):
    told = json.loads(run("look", PROMPT, "--json", "--after-end")[1])
    assert told["next_tokens"]["surprisal"] == pytest.approx(-fable.score(PROMPT).total, rel=1e-5)


def test_a_prompt_from_standard_input_and_of_one_token(run):
    code, out, _ = run("look", stdin=b"The\n")
    assert code == 0 and "What comes next" in out


def test_signs_stand_for_what_would_move_the_cursor(run):
    out = run("look", "A\nB\x1b[31m C\t\u202e D")[1]
    assert "\x1b" not in out and "\u202e" not in out and "↵" in out


def test_wide_and_combined_characters_keep_the_columns():
    assert looking.columns("你好") == 4 and looking.columns("e\u0301") == 1
    for text in ("short", "a much longer piece", "你好你好你好", ""):
        for width in range(10):
            assert looking.columns(looking.fit(text, width)) == width


@pytest.mark.parametrize("width", ["1", "40", "59", "61", "200"])
def test_a_terminal_of_any_width(width, run, monkeypatch):
    """At 40 columns nothing was left for the last column, and it was cut for ever."""
    monkeypatch.setenv("COLUMNS", width)
    code, out, _ = run("look", "The cat sat on 你好")
    assert code == 0 and "What comes next" in out


def test_at_most_a_thousand_columns(monkeypatch):
    """999,999,999 columns took 24 seconds to draw."""
    monkeypatch.setenv("COLUMNS", "999999999")
    assert looking.Canvas("never").width == 1000


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99, 1])
def test_a_bar_is_as_long_as_its_share(share):
    drawn = looking.bar(share, 10)
    eighths = sum(8 if c == "█" else 8 - "▉▊▋▌▍▎▏".index(c) - 1 for c in drawn)
    assert eighths == round(share * 80)


def test_sparks_go_from_low_to_high():
    assert looking.spark([0, 0.5, 1, float("nan")], 0, 1) == "▁▄█ "
    assert looking.spark([3, 3], 3, 3) == "▁▁"


# ---- The source.


def test_the_source_is_shown_with_its_numbers(run, fable):
    code, out, err = run("look", "The Moon's orbit around Earth has", "--source", "--layer", "2")
    assert (code, err) == (0, "")
    trace = fable.trace("The Moon's orbit around Earth has")
    for name, key in (("softmax", "pattern"), ("gelu", "mlp_post"), ("block", "resid_post")):
        value = trace[key, 2]
        shape = re.escape(str(list(value.shape)))
        told = f"{value.min():.4g} to {value.max():.4g}"
        assert re.search(rf"out output {shape} {re.escape(told)}", out), name
        assert f"def {name}(" in out
    for station in (
        "wte[tokens]", "h.2.ln_1", "h.2.attn.c_attn", "split_heads", "mask_attn_weights", "softmax",
        "merge_heads", "h.2.attn.c_proj", "h.2.ln_2", "h.2.mlp.c_fc", "gelu", "h.2.mlp.c_proj",
        "ln_f", "logits", "present",
    ):  # fmt: skip
        assert station in out
    assert out.count("def softmax(") == 1  # in full once
    assert all(f"block  h.{layer}" in out for layer in range(6))


# ---- A page.


def test_a_page_is_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    target = tmp_path / "fox.html"
    code, out, err = run("look", PROMPT, "--html", str(target))
    assert (code, out) == (0, "") and "fox.html is written" in err
    page = target.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    fails(run("look", "Another", "--html", str(target)), "exists", "--force")
    assert target.read_text(encoding="utf-8") == page
    assert run("look", "Another", "--html", str(target), "--force")[0] == 0
    assert target.read_text(encoding="utf-8") != page

    from gpt2lab.lens import page as pages

    def broken(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "render", broken)
    assert run("look", "Another", "--html", str(tmp_path / "other.html"))[0] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["fox.html"]


# ---- A run.


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A run with three checkpoints, made by hand, and a log with half a line at its end."""
    folder = tmp_path_factory.mktemp("grown")
    tokenizer = gpt2lab.Tokenizer.characters([chr(65 + i) for i in range(57)])
    config = dataclasses.replace(TINY, n_vocab=tokenizer.n_vocab)
    for step, seed in ((0, 0), (40, 1), (120, 2)):
        made = weights.Checkpoint(config, tiny_params(config, seed), tokenizer, "none")
        weights.save(made, folder / f"step-{step:08d}")
    records = [{"kind": "step", "step": n, "loss": 4 - n / 100} for n in range(1, 121)]
    records += [
        {"kind": "val", "step": 120, "loss": 2.5},
        {"kind": "step", "step": 119, "loss": "NaN"},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(lines + '{"kind": "st')
    (folder / "step-broken").mkdir()
    return folder


def test_a_run_is_looked_at_checkpoint_by_checkpoint(run, grown):
    told = json.loads(run("look", "--run", str(grown), "--json")[1])
    assert [stage["step"] for stage in told["stages"]] == [0, 40, 120]
    assert [stage["val_loss"] for stage in told["stages"]] == [None, None, 2.5]
    losses = [stage["loss"] for stage in told["stages"]]
    assert losses[0] is None
    assert losses[1] == pytest.approx(np.median([4 - n / 100 for n in range(1, 41)]))
    assert losses[2] == pytest.approx(np.median([4 - n / 100 for n in range(41, 121)]))
    for stage, seed in zip(told["stages"], (0, 1, 2), strict=True):
        lm = gpt2lab.load(str(grown / f"step-{stage['step']:08d}"), engine="numpy")
        np.testing.assert_array_equal(
            lm.params["wte.weight"], tiny_params(lm.config, seed)["wte.weight"]
        )
        assert stage["scores"] == lens.head_scores(lm).to_dict()
        assert 0 <= stage["depth"] <= 1
    layer, head = told["best"]["previous"]
    highest = max(np.max(stage["scores"]["previous"]) for stage in told["stages"])
    assert max(s["scores"]["previous"][layer][head] for s in told["stages"]) == highest


def test_the_lens_depth_of_a_given_text(run, grown):
    told = json.loads(run("look", "ABBA", "--run", str(grown), "--json")[1])
    lm = gpt2lab.load(str(grown / "step-00000040"), engine="numpy")
    depths = lens.logit_lens(lm.trace("ABBA"), top=1).depths
    assert told["stages"][1]["depth"] == pytest.approx(depths.mean() / 2)
    assert told["text"] == "ABBA"


def test_a_run_in_the_terminal_and_as_a_page(run, grown, tmp_path):
    code, out, err = run("look", "--run", str(grown))
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["0", "40", "120"]
    assert run("look", "--run", str(grown), "--html", str(tmp_path / "run.html"))[0] == 0
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count("<path") == 4 + 3 + 2 * 8 + 1  # a grid for each panel, and the lines
    assert "<script" not in page
    stages = list(over_training.stages(grown))
    shown = over_training.Growth("<b>", stages)._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown


def test_a_run_that_is_none(run, tmp_path):
    fails(run("look", "--run", str(tmp_path / "nowhere")), "is no folder")
    fails(run("look", "--run", str(tmp_path)), "holds no checkpoints", "--save-total-limit 0")


def test_a_run_is_looked_at_without_torch(grown):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from gpt2lab.commands import main\n"
        f"main(['look', '--run', {str(grown)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- Wrong input.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["", "--json"], ["empty"]),
        ([PROMPT, "--layer", "2"], ["--source"]),
        ([PROMPT, "--source", "--layer", "6"], ["layer 6", "0 to 5"]),
        ([PROMPT, "--source", "--json"], ["--json"]),
        ([PROMPT, "--source", "--html", "x.html"], ["--html"]),
        ([PROMPT, "--html", "x.html", "--json"], ["--html and --json"]),
        ([PROMPT, "--force"], ["--html"]),
        ([PROMPT, "--top", "0"], ["--top is 0"]),
        ([PROMPT, "--position", "99"], ["position 99", "0 to"]),
        ([PROMPT, "--token", "two words"], ["tokens", "give one"]),
        ([PROMPT, "--silence", "4"], ["'4'", "LAYER.HEAD"]),
        ([PROMPT, "--silence", "9.0"], ["layer 9", "0 to 5"]),
        ([PROMPT, "--silence", "0.9"], ["head 9", "0 to 3"]),
        ([PROMPT, "--scale", "0.1"], ["LAYER.HEAD=X"]),
        ([PROMPT, "--scale", "0.1=much"], ["LAYER.HEAD=X"]),
        (["--run", "x", "--silence", "0.1"], ["--silence"]),
        (["--run", "x", "--model", "124M"], ["--model"]),
        (["word " * 600], ["tokens, the model sees 512"]),
        (["word " * 600, "--html", "x.html"], ["tokens, the model sees 512"]),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    run,
    words,
    message,
    tmp_path,
    monkeypatch,
):
    monkeypatch.chdir(tmp_path)
    fails(run("look", *words), *message)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_with_an_unusual_activation(run, tmp_path):
    folder = tmp_path / "model"
    weights.save(weights.Checkpoint(TINY, tiny_params(), None, "none"), folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "activation_function": "swish"}))
    fails(run("look", "x", "-m", str(folder), "--html", str(tmp_path / "x.html")), "swish", "gelu")
    assert not (tmp_path / "x.html").exists()
