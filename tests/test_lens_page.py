"""How the look inside looks: fragments for notebooks, and the page that asks for nothing."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import html
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import gpt2lab
from gpt2lab import lens
from gpt2lab.config import Config
from gpt2lab.errors import InputError
from gpt2lab.lens import page, page_steps
from gpt2lab.lens.prediction import SURPRISING
from gpt2lab.lens.walkthrough import walk
from gpt2lab.lm import LM
from gpt2lab.pages import document, palette, text
from gpt2lab.pages.editor import look_script
from gpt2lab.weights import Checkpoint

from .support import ROOT, TINY, tiny_params

TEXT = (
    "Once upon a time, there was a little girl named Lily. One day, Lily went to the park with her "
    "mom. They saw a big dog. The dog was very happy and wanted to"
)
IDS = [5, 17, 3, 96, 0, 44, 17, 3]
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">"


class Hostile:
    """A tokenizer whose pieces are what no page should ever take for its own."""

    def __init__(self, count: int = TINY.n_vocab) -> None:
        self.n_vocab = count
        self.odd = [
            HOSTILE,
            "{{script}}",
            "<!--",
            "' \" &amp;",
            "\n",
            "\t\x07",
            "\u202eab",
            "\\xf0",
        ]

    def pieces(self, ids):
        return [f"{self.odd[one % len(self.odd)]}{one}" for one in ids]

    def encode(self, text):
        return IDS


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load(engine="numpy")


def tiny(config: Config = TINY, tokenizer=None, **more) -> LM:
    params = {**tiny_params(config), **more}
    return LM(Checkpoint(config, params, tokenizer, "none"), engine="numpy")


def results(model, text):
    """One object of each kind that shows itself."""
    t = lens.trace(model, text)
    other = [*IDS[:-1], 9]
    return {
        "trace": t,
        "next_tokens": lens.next_tokens(t),
        "logit_lens": lens.logit_lens(t),
        "attribution": lens.attribution(t),
        "neurons": lens.attribution(t, 3, against=4, by="neuron"),
        "attention": lens.attention(t, 1, 2),
        "head_scores": lens.head_scores(model),
        "sweep": lens.sweep(model, IDS, other, 5, 6),
        "sweep of heads": lens.sweep(model, IDS, other, 5, name="z"),
    }


class Tags(HTMLParser):
    """Which elements and attributes a text has, whether all are closed, and what is to be read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.attributes, self.open, self.words, self.titles = [], set(), [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words += data


# ---- Colours and signs.


@pytest.mark.parametrize("scale", [palette.shade, palette.heat])
def test_a_scale_goes_one_way_in_lightness_and_ink_is_read_on_it(scale):
    light = [palette.luminance(scale(i / 100)) for i in range(101)]
    assert all(a > b for a, b in itertools.pairwise(light))
    assert scale(-1) == scale(0) == scale(float("nan"))
    assert scale(7) == scale(1)


def test_ink_on_any_colour_has_the_contrast_that_wcag_asks_for():
    for value in np.linspace(-1, 1, 401):
        for scale in (palette.shade, palette.heat, palette.diverging):
            paper = palette.luminance(scale(float(value)))
            letters = 0.0 if palette.ink(scale(float(value))) == "#000" else 1.0
            ratio = (max(paper, letters) + 0.05) / (min(paper, letters) + 0.05)
            assert ratio >= 4.5


def test_the_two_sides_of_zero_differ_in_blue_and_not_in_red_and_green_alone():
    for value in (0.3, 0.6, 1.0):
        (r, _, b), (red, _, blue) = palette.diverging(value), palette.diverging(-value)
        assert b - r > 15
        assert red - blue > 15


def test_what_cannot_be_seen_gets_a_sign():
    assert text.plain(" a\n\t\r\x00\x1b") == "·a↵⇥␍␀␛"
    assert text.plain("\u202ea\u200b\u2003\x85") == r"\u{202e}a\u{200b}\u{2003}\u{85}"
    assert text.plain("") == "∅"
    assert text.plain("\u0301") == "◌\u0301"
    assert text.signs("a b") == [("a", False), ("·", True), ("b", False)]
    assert text.plain("\\xf0") == "\\xf0"
    every = "".join(map(chr, range(0x3000)))
    assert text.plain(every).isprintable()


# ---- Fragments.


def test_every_result_shows_itself_without_script_or_style_sheet():
    model = tiny(tokenizer=Hostile())
    for kind, result in results(model, IDS).items():
        found = Tags(result._repr_html_())
        assert not found.open, kind
        assert set(found.names) <= {"div", "span", "table", "tr", "td", "th", "bdi"}, kind
        assert found.attributes <= {"style", "title"}, kind
        assert "http" not in result._repr_html_(), kind


def test_hostile_tokens_are_read_as_text():
    model = tiny(tokenizer=Hostile())
    t = lens.trace(model, IDS)
    shown = Tags((lens.next_tokens(t))._repr_html_())
    piece = text.plain(model.tokenizer.pieces([96])[0])
    assert piece == text.plain(HOSTILE + "96")
    assert piece in shown.words


def test_the_numbers_of_a_text_stand_in_it(fable):
    n = lens.next_tokens(fable.trace(TEXT))
    fragment = (n)._repr_html_()
    found = Tags(fragment)
    for row in n.expected[1:-1]:
        assert any(
            f"rank {row.rank}\nsurprisal {row.surprisal:.4f} nats" in title
            for title in found.titles
        )
    for name, value in n.names(n.next):
        assert f"{text.plain(name)}" in found.words
        assert text.percent(value) in found.words
        assert f"probability {value!r}" in found.titles
    surprising = max(n.expected[1:-1], key=lambda row: row.surprisal)
    colour = palette.heat(surprising.surprisal / SURPRISING)
    assert palette.css(colour) in fragment


def test_the_numbers_of_a_lens_stand_in_its_titles(fable):
    found = fable.trace("Once upon a time")
    look = lens.logit_lens(found)
    shown = Tags((look)._repr_html_())
    cells = [title for title in shown.titles if "entropy" in title]
    assert len(cells) == look.best.shape[0] * look.best.shape[1]
    for (n, i), title in zip(np.ndindex(*look.best.shape[:2]), cells, strict=True):
        assert title.startswith(f"{look.keys[n]}, token {i}\n")
        assert f"entropy {look.entropies[n, i]:.4f}, KL {look.divergences[n, i]:.4f}" in title
        assert f"rank {look.target_ranks[n, i]}" in title


def test_the_numbers_of_a_head_stand_in_its_cells(fable):
    found = lens.attention(fable.trace(TEXT), 3, 1)
    titles = [title for title in Tags((found)._repr_html_()).titles if "q.k" in title]
    places = [(i, j) for i in range(len(found.pieces)) for j in range(i + 1)]
    assert len(titles) == len(places)
    for (i, j), title in zip(places, titles, strict=True):
        assert f"q.k {found.dots[i, j]:.4f}, scaled {found.scaled[i, j]:.4f}" in title


def test_long_results_are_cut_and_say_so():
    model = tiny(dataclasses.replace(TINY, n_ctx=256, n_layer=45))
    long = [i % 97 for i in range(90)]
    t = lens.trace(model, long)
    assert "last 60 of 90 tokens" in (lens.next_tokens(t))._repr_html_()
    shown = (lens.logit_lens(t))._repr_html_()
    assert "last 60 of 90 tokens" in shown
    assert "last 40 of 46 places" in shown
    assert "last 40 of 90 tokens" in (lens.attention(t, 0, 0))._repr_html_()
    most = (lens.attribution(t, by="neuron"))._repr_html_()
    assert "40 largest of" in most
    assert len(most) < 40_000
    assert "Of 45 layers, 0 to 44, layer 0 is shown." in (t)._repr_html_()


def test_what_a_cut_attribution_leaves_out_is_summed(fable):
    found = lens.attribution(fable.trace(TEXT), by="neuron")
    text = Tags((found)._repr_html_()).words
    rest = float(re.search(r"the others sum to (-?[\d.]+)\.", text)[1])
    assert rest == pytest.approx(found.values.sum() - sum(v for _, v in found.top(40)), abs=1e-4)


# ---- The page's data.


@pytest.fixture(scope="module")
def made(fable):
    return page.render(fable, fable.encode(TEXT))


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(found[1], parse_constant=refuse)


def close(told, expected, digits=None, decimals=None):
    """Whether numbers are the expected ones, rounded as is said."""
    told, expected = np.array(told, np.float64), np.asarray(expected, np.float64)
    assert told.shape == expected.shape
    slack = 0.51 * 10.0**-decimals if decimals else 0.51 * 10.0 ** (1 - digits) * np.abs(expected)
    assert np.all(np.abs(told - expected) <= slack + 1e-12)


def test_how_tokens_were_expected(fable, made):
    told, n = data_of(made)["expected"], lens.next_tokens(fable.trace(TEXT))
    assert told[0] is None
    rows = n.expected[1:-1]
    close([one["p"] for one in told[1:]], [row.probability for row in rows], digits=4)
    assert data_of(made)["total"] == round(n.total, 4)
    assert [one["rank"] for one in told[1:]] == [row.rank for row in rows]
    close([one["surprisal"] for one in told[1:]], [row.surprisal for row in rows], decimals=4)
    close([one["entropy"] for one in told[1:]], [row.entropy for row in rows], decimals=4)


def test_what_comes_next_is_exact_at_every_temperature(fable, made):
    """The page divides by the sum of what it shows and of what is told of the rest."""
    logits = fable.trace(TEXT)["logits"][0].astype(np.float64)
    for row, told in zip(logits, data_of(made)["next"], strict=True):
        close(told["logits"], row[told["ids"]], decimals=4)
        assert told["ids"] == np.argsort(-row, kind="stable")[:50].tolist()
        for value, rest in zip(page.TEMPERATURES, told["rest"], strict=True):
            shown = np.exp(np.array(told["logits"]) / value - row.max() / value)
            p = shown / (shown.sum() + np.exp(rest - row.max() / value))
            whole = np.exp((row - row.max()) / value)
            np.testing.assert_allclose(p, whole[told["ids"]] / whole.sum(), rtol=3e-3, atol=1e-12)


def test_scores_are_those_of_every_head_to_the_bit(fable, made):
    told, t = data_of(made)["attention"], fable.trace(TEXT)
    length, c = t.tokens.shape[1], fable.config
    scores = np.frombuffer(base64.b64decode(told["scores"]), "<f4")
    scores = scores.reshape(c.n_layer, c.n_head, length * (length + 1) // 2)
    for layer in range(c.n_layer):
        for head in range(c.n_head):
            found = lens.attention(t, layer, head)
            assert told["scale"][layer] == found.scale
            i, j = np.tril_indices(length)
            assert np.array_equal(scores[layer, head], t["scores", layer][0, head, i, j])
            np.testing.assert_allclose(
                scores[layer, head], found.scaled[i, j], rtol=1e-4, atol=1e-4
            )


def test_the_lens_and_what_may_be_pinned(fable, made):
    told, t = data_of(made)["lens"], fable.trace(TEXT)
    found = lens.logit_lens(t, top=10)
    assert told["keys"] == found.keys
    assert told["best"] == found.best.tolist()
    assert told["targets"] == found.targets.tolist()
    assert told["target_rank"] == found.target_ranks.tolist()
    assert told["depths"] == found.depths.tolist()
    close(told["p"], found.probabilities, digits=4)
    close(told["target_p"], found.target_probabilities, digits=4)
    close(told["entropy"], found.entropies, decimals=4)
    close(told["kl"], found.divergences, decimals=4)
    for i, pinned in enumerate(told["pinned"]):
        assert set(pinned["ids"]) == {*found.best[:, i, 0], found.targets[i]}
        for n, key in enumerate(found.keys):
            logits = lens.unembed(t, t[key][0, i]).astype(np.float64)
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            np.testing.assert_allclose(pinned["p"][n], p[pinned["ids"]], rtol=1e-3, atol=1e-12)


def test_what_adds_to_the_logit_sums_to_it(fable, made):
    told, t = data_of(made)["attribution"], fable.trace(TEXT)
    tokens = t.tokens[0].tolist()
    assert told["follows"][-1] is None
    for i in range(len(tokens)):
        kinds = (
            {"predicted": None}
            if i + 1 == len(tokens)
            else {"predicted": None, "follows": tokens[i + 1]}
        )
        for kind, token in kinds.items():
            found, one = lens.attribution(t, token, position=i, by="head"), told[kind][i]
            assert told["labels"] == found.labels
            assert one["token"] == found.token
            close(one["values"], found.values, decimals=6)
            close(one["logit"], found.logit, decimals=6)
            assert sum(one["values"]) == pytest.approx(one["logit"], abs=1e-4)


def test_scores_of_heads(fable, made):
    told, found = data_of(made)["heads"], lens.head_scores(fable)
    for kind in ("previous", "duplicate", "induction"):
        close(told[kind], getattr(found, kind), decimals=4)
    close(told["losses"], found.losses, decimals=4)
    assert page.gather(fable, [1, 2], layer_scores=False)["heads"] is None


def made_by(told: dict, stage: dict, layer: int) -> list:
    """The values that a step of the flow made, as the page finds them."""
    call, line = stage["at"][layer if len(stage["at"]) > 1 else 0]
    seen = told["calls"][call]["seen"].get(str(line), []) if line else []
    return [told["values"][one] for one in seen or told["calls"][call]["outputs"]]


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_every_step_of_the_flow_shows_the_value_that_a_trace_has(activation):
    model = tiny(dataclasses.replace(TINY, activation_function=activation))
    t, told = lens.trace(model, IDS), page.gather(model, IDS)["flow"]
    seen = 0
    for stage in told["stages"]:
        for layer in range(TINY.n_layer):
            if not stage["key"]:
                assert made_by(told, stage, layer)
                continue
            value = t[stage["key"].format(layer)]
            real = value[value > -1e9]
            ends = [float(f"{x:.4g}") for x in (real.min(), real.max())]
            assert [list(value.shape), *ends] in [
                [one[2], one[4], one[5]] for one in made_by(told, stage, layer)
            ], stage["id"]
            seen += 1
    assert seen == 2 * 14


def test_the_flow_has_the_lines_of_the_reference(made):
    told = data_of(made)["flow"]
    lines = (ROOT / "gpt2lab" / "reference.py").read_text().split("\n")
    for source in told["sources"]:
        for number, line in source["lines"]:
            assert lines[number - 1].strip() == line.strip()
    assert {source["name"] for source in told["sources"]} >= {
        "model",
        "block",
        "attn",
        "mlp",
        "norm",
    }


def test_the_pictures_are_those_of_the_walk(fable):
    tokens = fable.encode("Once upon a time")
    told, calls = page.gather(fable, tokens)["flow"], walk(fable, [tokens])
    assert len(told["calls"]) == len(calls)
    for call, one in zip(calls, told["calls"], strict=True):
        for value, index in zip(call.outputs, one["outputs"], strict=True):
            if not value.picture:
                continue
            place, rows, columns, most = told["values"][index][8]
            levels = np.frombuffer(base64.b64decode(told["pictures"][place]), "u1")
            numbers = np.array(value.picture)
            assert numbers.shape == (rows, columns)
            shown = np.where(levels == 0, np.nan, (levels - 128.0) / 127 * most)
            np.testing.assert_allclose(
                shown.reshape(rows, columns), numbers, atol=0.54 / 127 * most + 1e-9
            )


def test_the_calls_of_all_layers_are_alike(made):
    """The page keeps its place in the source when another layer is chosen."""
    told = data_of(made)["flow"]
    size = told["parts"][1] - told["parts"][0]
    names = [[call["source"] for call in told["calls"][i : i + size]] for i in told["parts"]]
    assert all(one == names[0] for one in names)


def test_a_step_that_is_no_longer_there_is_an_error(fable):
    calls = walk(fable, [[1]])
    with pytest.raises(AssertionError, match="the reference has no lost"):
        page_steps._find(calls, page_steps.FlowStep("lost", "model", "", line="y = nothing"), None)


# ---- The page as a file.


def test_a_short_page_is_small(fable, made):
    """At most 700 kB for forty tokens; the page of the text is made already."""
    assert len(made.encode()) < 700_000 and len(fable.encode(TEXT)) <= 40


def test_the_page_asks_for_nothing(made):
    assert "http:" not in made
    assert "https:" not in made
    assert "//" not in re.sub(r"^\s*//.*|/\*.*?\*/", "", document.part("look.css"), flags=re.DOTALL)
    found = Tags(made)
    assert not found.open
    assert not found.attributes & {"src", "srcset", "action", "onclick", "onload", "onerror"}
    assert re.findall(r'href="([^"#]+)', made) == ["data:,"]
    assert "@import" not in made
    assert "url(" not in made
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML", "eval("):
        assert word not in look_script()


def test_its_policy_lets_one_script_run_and_no_other(made):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', made)[1])
    scripts = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy == f"{document.POLICY}; script-src 'sha256-{digest}'"
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_hostile_tokens_and_names_do_not_leave_their_place():
    model = tiny(tokenizer=Hostile())
    model.name = HOSTILE
    made = page.render(model, IDS)
    plainly = page.render(tiny(), IDS)
    assert Tags(made).names == Tags(plainly).names
    told = data_of(made)
    assert told["model"]["name"] == HOSTILE
    for one, piece in zip(IDS, model.tokenizer.pieces(IDS), strict=True):
        assert "".join(told["words"][str(one)]) == text.plain(piece)


def test_ids_are_shown_where_there_is_no_tokenizer():
    told = data_of(page.render(tiny(), IDS))
    assert told["model"]["text"] is False
    assert told["words"]["96"] == ["[96]"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_ctx": 3},
        {"n_vocab": 7},
        {"n_layer": 1, "n_head": 1},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False, "n_inner": 5},
    ],
    ids=str,
)
def test_a_page_of_one_token_of_any_model(changes):
    config = dataclasses.replace(TINY, **changes)
    told = data_of(page.render(tiny(config), [1]))
    assert told["expected"] == [None]
    assert len(told["next"]) == len(told["lens"]["pinned"]) == 1
    assert (told["heads"] is None) == (config.n_ctx < 4)
    assert len(told["flow"]["parts"]) == config.n_layer


def test_a_head_of_its_own_is_used():
    head = np.random.default_rng(1).normal(0, 0.5, (TINY.n_vocab, TINY.n_embd)).astype(np.float32)
    model = tiny(**{"lm_head.weight": head})
    told = data_of(page.render(model, IDS))
    assert told["model"]["tied"] is False
    logits = model.logits([IDS])[0]
    for i, after in enumerate(told["next"]):
        assert after["ids"][0] == int(np.argmax(logits[i]))
        close(after["logits"], logits[i][after["ids"]], decimals=4)


def test_a_model_whose_numbers_are_lost_has_no_page():
    """Of a run that went wrong, say: NaN has no rank, and JSON has no NaN."""
    model = tiny()
    model.params["h.1.mlp.c_proj.bias"][:] = np.nan
    with pytest.raises(InputError, match="not all finite"):
        page.render(model, IDS)


def test_acts_are_told(fable):
    acting = fable.acting(lens.silence_heads(1, [0]))
    told = data_of(page.render(acting, fable.encode("Once upon a time")))
    assert told["model"]["acts"] == ["head 1.0 silenced"]
    assert told["attribution"]["labels"][-1] == "acts"


def test_an_acted_page_has_the_plain_numbers(fable):
    tokens = fable.encode("Once upon a time")
    told = data_of(page.render(fable.acting([lens.silence_heads(1, [0])]), tokens))
    p = lens.probabilities(fable, tokens)
    for i, row in enumerate(told["plain"]["next"]):
        assert row == pytest.approx(p[i, told["next"][i]["ids"]], rel=1e-3)
    assert told["plain"]["expected"][1:] == pytest.approx(
        [p[i, token] for i, token in enumerate(tokens[1:])], rel=1e-3
    )
    assert data_of(page.render(fable, tokens))["plain"] is None


def test_a_long_page_is_small_and_its_scores_are_near(fable):
    """A page of 500 tokens was 17.8 MB: all scores in 32 bits. Now queries and keys in 12."""
    count = page.LONG + 20
    tokens = [(7 * i) % 4000 for i in range(count)]
    text = page.render(fable, tokens, layer_scores=False)
    assert len(text) <= page.estimate(fable.config, count) * 1.02 < 3_000_000
    packed = re.search(r'<script type="application/gzip" id="data">([^<]*)</script>', text)[1]
    told = json.loads(gzip.decompress(base64.b64decode(packed)))["attention"]
    trace = fable.trace(tokens, ["scores"])

    def numbers(name):
        raw = np.frombuffer(base64.b64decode(told[name]), np.uint8).astype(np.int32).reshape(-1, 3)
        first, second = raw[:, 0] << 4 | raw[:, 1] >> 4, (raw[:, 1] & 15) << 8 | raw[:, 2]
        values = np.stack([first, second], 1) - 2048
        return values.reshape(fable.config.n_layer, fable.config.n_head, count, -1)

    q, k, below = numbers("q"), numbers("k"), np.tril_indices(count)
    for layer, head in np.ndindex(*q.shape[:2]):
        scores = q[layer, head] @ k[layer, head].T * told["units"][layer][head]
        exact = trace["scores", layer][0, head]
        assert np.abs(scores - exact)[below].max() < 2e-3 * max(1, np.abs(exact[below]).max())


@pytest.mark.parametrize(("config", "count"), [(TINY, 64), (None, 1), (None, 60)])
def test_the_size_is_told_before_anything_is_computed(fable, config, count):
    model = tiny(config) if config else fable
    tokens = [i % 90 for i in range(count)]
    size = len(page.render(model, tokens).encode())
    assert size <= page.estimate(model.config, count) * 1.02
    assert page.estimate(model.config, count) < size + 500_000


def test_a_page_that_would_be_too_large_is_refused():
    config = Config()
    with pytest.raises(
        InputError, match=r"page of 1024 tokens would have \d+ MB, more than 40"
    ) as e:
        page.check_size(config, 1024)
    fits = int(re.search(r"give (\d+) tokens or fewer", str(e.value))[1])
    assert page.estimate(config, fits) <= page.LIMIT < page.estimate(config, fits + 1)


# ---- The page at work, where there is something to run it.


def test_the_script_is_javascript(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    path = tmp_path / "page.js"
    path.write_text(look_script(), encoding="utf-8")
    subprocess.run([node, "--check", path], check=True)


def drawn(text: str, tmp_path) -> str:
    """What a browser makes of a page: its text, as far as it is in the document."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here")
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, "--virtual-time-budget=2000", file.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120)
    return done.stdout.decode()


def test_a_browser_draws_the_numbers(fable, made, tmp_path):
    dom = drawn(made, tmp_path)
    words = re.sub(r"<[^>]*>", "", dom.split('<script type="application/json"')[0])
    n = lens.next_tokens(fable.trace(TEXT))
    assert "Logarithms are natural" in words  # the last thing that the script writes
    assert f"{n.total:.4f} nats over the" in words
    assert f"entropy {n.next.entropy:.4f} nats" in words
    layer, head = map(int, re.search(r"Layer (\d+), head (\d+): token", dom).groups())
    shares = lens.attention(fable.trace(TEXT), layer, head).pattern[-1]
    table = dom.split('aria-label="the arithmetic"')[1].split("</table>")[0]
    told = [float(x) for x in re.findall(r"([\d.]+)%</td>", re.sub(r"<(?!/td)[^>]*>", "", table))]
    np.testing.assert_allclose(told, 100 * np.sort(shares)[::-1], atol=0.0051)
    writes = lens.attribution(fable.trace(TEXT), by="head").values
    labels = lens.attribution(fable.trace(TEXT), by="head").labels
    heads = [i for i, label in enumerate(labels) if ".head." in label]
    assert labels[max(heads, key=lambda i: writes[i])] == f"h.{layer}.head.{head}"


def test_a_browser_runs_nothing_of_a_token(tmp_path):
    model = tiny(tokenizer=Hostile())
    dom = drawn(page.render(model, IDS), tmp_path)
    assert "<img" not in dom.split('<script type="application/json"')[0]
    assert "<title>broken" not in dom
    assert "Logarithms are natural" in dom
