"""The editor in a browser: Debian's Chromium, driven by playwright, over a real server."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import gpt2lab
from gpt2lab.generation import sampler
from gpt2lab.generation.sampling import Sampling
from gpt2lab.pages import palette

pytest.importorskip("playwright", reason="playwright drives the browser; it is in the extra dev")
from .editor_helpers import BROWSER, calls, desk, served, window  # noqa: F401

pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not on the path")

STORY = "Once upon a time, there was a little girl named Lily. She liked to"
MARKUP = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load()


def asked(n: int, seed: int, **more) -> dict:
    """What the page asks for with its first settings."""
    return {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 40, "n": n, "seed": seed, **more}


# ---- Without a model: what the scripts compute.

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 0},
    {"top_k": 5},
    {"top_p": 0.9},
    {"top_p": 0.31, "temperature": 1.4},
    {"min_p": 0.1, "temperature": 1.2},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.7, "frequency_penalty": 0.4, "top_k": 40},
    {"bad_words": [[3], [7, 9], [9, 4]], "logit_bias": {"11": 4.5, "2": -3.25}},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.1},
]
RUN = """async ([logits, settings, seen]) => {
  const {process} = await import('./editor.sampling.js');
  return settings.map(one => {
    const {left, reasons} = process(Float32Array.from(logits), one, seen);
    return [Array.from(left, x => (x === -Infinity ? null : x)), [...reasons.keys()]];
  });
}"""


@pytest.mark.parametrize("n_vocab", [40, 3000])
def test_the_settings_do_the_same_as_in_python(desk, n_vocab):
    random = np.random.default_rng(n_vocab)
    logits = (random.normal(size=n_vocab) * 3).astype(np.float32)
    logits[5:9] = logits[4]  # ties at a border
    tokens = [3, 9, 7, 9, 12, 7, 9]
    seen = {"tokens": tokens, "promptLength": 2}
    found = desk.page.evaluate(RUN, [logits.tolist(), SETTINGS, seen])
    for settings, (left, removed) in zip(SETTINGS, found, strict=True):
        s = Sampling.from_dict(settings)
        expected = sampler.process(logits, s, tokens, prompt_length=2)
        if s.greedy:
            expected = np.where(np.arange(n_vocab) == expected.argmax(), expected, -np.inf)
        values = np.array([-np.inf if x is None else x for x in left], np.float32)
        np.testing.assert_array_equal(values, expected.astype(np.float32), err_msg=str(settings))
        assert set(removed) == set(np.flatnonzero(np.isinf(expected)).tolist()), settings


TREES = (Path(__file__).parent / "data" / "editor_trees.js").read_text(encoding="utf-8")


def test_edits_of_a_tree_show_what_was_typed_and_lose_no_other_branch(desk):
    edits, wrong = desk.page.evaluate(TREES, 1)
    assert edits > 4000
    assert wrong == []


def test_a_character_over_several_tokens_is_one_piece(desk):
    found = desk.page.evaluate(
        "async text => (await import('./editor.surface.js')).pieces(text, [1, 2, 2, 1, 2, 1])",
        "a\U0001f600中b",
    )
    assert [(one["text"], one["tokens"]) for one in found] == [
        ("a", [0]),
        ("\U0001f600", [1, 2]),
        ("中", [3, 4]),
        ("b", [5]),
    ]


# ---- Write.


def test_each_token_has_the_colour_of_its_surprisal(desk, fable):
    desk.write(STORY)
    score = fable.score(STORY, after_end=False)
    nodes = desk.page.locator("#layer .tok").evaluate_all(
        "all => all.map(one => [one.textContent, one.style.background])"
    )
    pieces = fable.tokenizer.pieces(fable.encode(STORY))
    assert [text for text, _ in nodes] == pieces
    for (text, colour), logprob in zip(nodes, score.logprobs, strict=True):
        if logprob is None:
            assert colour == ""
            continue
        wanted = palette.heat(-logprob / 8)
        shown = [int(x) for x in re.findall(r"\d+", colour)]
        assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) <= 1, text


def test_one_token_alone_has_no_score_and_no_color(desk):
    desk.write("Once")
    assert desk.page.locator("#layer .tok").count() == 1
    desk.expect(desk.page.locator(".here tbody tr").first).to_contain_text("upon")


def test_tab_shows_three_continuations_that_python_gives_too(desk, fable):
    desk.write(STORY)
    desk.page.keyboard.press("Tab")
    options = desk.page.locator("#ghost [role=option]")
    desk.expect(options).to_have_count(3)
    texts = fable.generate(STORY, **asked(3, 1, max_new_tokens=10))
    desk.wait(
        "want => [...document.querySelectorAll('#ghost [role=option]')].map(one => one.textContent)"
        ".join() === want.map(one => one.replaceAll(' ', '·').replaceAll('\\n', '↵')).join()",
        texts,
    )
    desk.page.keyboard.press("ArrowDown")
    desk.page.keyboard.press("Enter")
    assert desk.text() == STORY + texts[1]
    desk.page.keyboard.press("Tab")
    desk.page.keyboard.press("Escape")
    desk.expect(desk.page.locator("#ghost")).to_be_hidden()
    assert desk.text() == STORY + texts[1]


def test_generation_at_the_cursor_keeps_what_follows(desk, fable):
    desk.write(STORY + " THE END")
    desk.cursor(len(STORY))
    desk.page.keyboard.press("Control+Enter")
    desk.wait_generated()
    assert desk.text() == STORY + fable.generate(STORY, **asked(1, 1)) + " THE END"


def test_branches_are_cards_and_keys_lead_through_the_tree(desk, fable):
    desk.write(STORY)
    desk.page.click("#branches")
    desk.wait_generated()
    texts = fable.generate(STORY, **asked(3, 1))
    assert desk.page.locator(".branchcard .prose").all_text_contents() == texts
    desk.page.locator(".branchcard").nth(1).click()
    assert desk.text() == STORY + texts[1]
    for key, wanted in [
        ("ArrowDown", STORY + texts[2]),
        ("ArrowUp", STORY + texts[1]),
        ("ArrowLeft", STORY),
        ("ArrowRight", STORY + texts[1]),
    ]:
        desk.page.keyboard.press(f"Alt+{key}")
        assert desk.text() == wanted, key
    desk.page.keyboard.press("Alt+3")
    assert desk.text() == STORY + texts[2]
    assert desk.page.locator("#tree button").count() == 4


def test_undo_goes_back_several_steps_and_forward_again(desk):
    desk.write("One")
    desk.page.wait_for_timeout(1000)  # a pause parts two steps
    desk.page.keyboard.type(" two")
    desk.page.wait_for_timeout(1000)
    desk.page.keyboard.type(" three")
    seen = [desk.text()]
    for _ in range(3):
        desk.page.keyboard.press("Control+z")
        seen.append(desk.text())
    assert seen == ["One two three", "One two", "One", ""]
    for wanted in ("One", "One two", "One two three"):
        desk.page.keyboard.press("Control+Shift+z")
        assert desk.text() == wanted


#: Clicks in the page: a whole text may be generated while a click of the driver is on its way.
STOP_SOON = """length => {
  const timer = setInterval(() => {
    if (document.getElementById('area').value.length <= length) return;
    clearInterval(timer);
    document.getElementById('stop').click();
  }, 1);
}"""


def test_stop_frees_the_row_and_keeps_what_was_generated(desk, calls):
    desk.slide("max_new_tokens", 200)
    desk.write(STORY)
    desk.page.evaluate(STOP_SOON, 80)
    desk.page.click("#generate")
    desk.expect(desk.page.locator("#status")).to_contain_text("Stopped")
    for _ in range(100):
        if calls[1].running == 0:
            break
        desk.page.wait_for_timeout(20)
    assert calls[1].running == 0
    text = desk.text()
    assert text.startswith(STORY) and len(desk.text()) > 80
    desk.page.wait_for_timeout(300)
    assert desk.text() == text


def test_a_slider_changes_what_is_shown_without_asking_the_model(desk):
    desk.write(STORY)
    desk.expect(desk.page.locator(".here tbody tr").first).to_contain_text("play")
    rows = "all => all.map(one => one.textContent)"
    before = desk.page.locator(".here tbody tr").evaluate_all(rows)
    desk.asked.clear()
    desk.slide("top_k", 2)
    desk.page.wait_for_timeout(300)
    after = desk.page.locator(".here tbody tr").evaluate_all(rows)
    assert before != after
    assert "top k" in after[2] and "top k" not in before[2]
    desk.slide("temperature", 0)
    desk.expect(desk.page.locator(".here tbody tr").nth(1)).to_contain_text("greedy")
    assert desk.asked == []


def test_the_numbers_beside_an_alternative_are_the_model_s(desk, fable):
    desk.write(STORY)
    first = desk.page.locator(".here tbody tr").first
    desk.expect(first).to_contain_text("play")
    logits = fable.engine.logits([fable.encode(STORY)])[0, -1]
    s = Sampling(temperature=0.7, top_p=0.95)
    [play] = fable.tokenizer.encode(" play")
    for place, values in ((2, logits), (3, sampler.process(logits, s, fable.encode(STORY)))):
        p = math.exp(sampler.log_softmax(values)[play])
        shown = float(first.locator("td").nth(place).text_content().rstrip("%")) / 100
        assert shown == pytest.approx(p, abs=6e-4)


def test_a_pointer_over_a_token_tells_probability_rank_and_alternatives(desk, fable):
    desk.write(STORY)
    ids = fable.encode(STORY)
    place = fable.tokenizer.pieces(ids).index(" girl")
    desk.hover(place)
    told = desk.page.locator("#tip")
    desk.expect(told).to_contain_text("boy")
    text = told.text_content()
    p = math.exp(fable.score(STORY, after_end=False).logprobs[place])
    assert f"{100 * p:.1f}%" in text
    assert "rank 1" in text
    assert "top p" in text  # why the last of them are out
    assert desk.page.locator("#tip tr").count() >= 11


def test_an_alternative_branches_and_the_button_beside_it_bans_and_boosts(desk):
    desk.write(STORY)
    row = desk.page.locator(".here tbody tr").filter(has_text="draw")
    desk.expect(row).to_have_count(1)
    bias = row.locator(".bias")
    bias.click()
    desk.expect(row.locator(".why")).to_have_text("banned")
    bias.click()
    desk.expect(row.locator(".bias.boost")).to_have_count(1)
    settings = desk.page.evaluate(
        "async () => (await import('./editor.document.js')).open.settings"
    )
    assert settings["bad_words"] == [] and list(settings["logit_bias"].values()) == [3]
    row.locator(".alternative").click()
    assert desk.text() == STORY + " draw"
    desk.page.keyboard.press("Control+z")
    assert desk.text() == STORY


def test_what_could_come_is_the_mass_of_three_steps(desk, fable):
    desk.write(STORY)
    desk.page.click("#futurebox summary")
    cells = desk.page.locator("#future .cell")
    desk.wait("() => document.querySelectorAll('#future .cell').length > 12")
    desk.page.wait_for_timeout(500)
    labels = cells.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    [(first, p)] = re.findall(r"^(.*) ([\d.]+)%$", labels[0])
    logits = fable.engine.logits([fable.encode(STORY)])[0, -1]
    expected = math.exp(sampler.log_softmax(logits).max())
    assert float(p) / 100 == pytest.approx(expected, abs=6e-4)
    cells.first.locator("rect").click()
    assert desk.text() == STORY + first.replace("·", " ")


def test_a_reload_restores_the_text_and_its_branches(desk):
    desk.write(STORY)
    desk.page.click("#branches")
    desk.wait_generated()
    desk.page.locator(".branchcard").nth(2).click()
    text = desk.text()
    desk.page.reload()
    desk.ready()
    assert desk.text() == text
    assert desk.page.locator(".branchcard").count() == 3


def test_two_tabs_do_not_write_over_each_other(desk):
    desk.write("In the first tab")
    desk.page.wait_for_timeout(500)
    other = desk.another()
    assert other.text() == ""
    other.write("In the second tab")
    desk.page.keyboard.type(", and more")
    desk.page.wait_for_timeout(500)
    desk.page.reload()
    other.page.reload()
    desk.ready()
    other.ready()
    assert (desk.text(), other.text()) == ("In the first tab, and more", "In the second tab")


def test_markup_in_a_text_stays_text(desk):
    desk.write(MARKUP)
    desk.page.click("#branches")
    desk.wait_generated()
    desk.hover(3)
    desk.page.wait_for_timeout(400)
    desk.page.click("#tab-read")
    desk.page.click("#read .row button:nth-child(2)")
    desk.expect(desk.page.locator("#readings .facts")).to_be_visible()
    desk.page.click("#tab-chat")
    desk.page.fill("#message", MARKUP)
    desk.page.keyboard.press("Enter")
    desk.expect(desk.page.locator(".turn")).to_have_count(2)
    assert desk.page.locator("img, main script").count() == 0
    assert desk.page.title() != "broken"


def test_emoji_over_several_tokens_are_never_broken(desk, fable):
    text = "She saw \U0001f600 and 中文."
    desk.write(text)
    assert len(fable.encode(text)) > len(desk.page.locator("#layer .tok").all())
    desk.page.locator("#area").press("End")
    desk.page.keyboard.press("Control+Enter")
    desk.wait_generated()
    desk.expect(desk.page.locator("#layer")).to_contain_text("\U0001f600")
    shown = desk.page.locator("#layer .tok").all_text_contents()
    assert "".join(shown) == desk.text()
    assert not any("\ufffd" in one for one in shown[: len(text)])


STROKES = """async () => {
  const area = document.getElementById('area'), times = [];
  area.setSelectionRange(2000, 2000);
  for (let i = 0; i < 24; i++) {
    const begun = performance.now();
    document.execCommand('insertText', false, 'x');
    document.getElementById('layer').offsetHeight; // the layout that the browser would do next
    times.push(performance.now() - begun);
    await new Promise(done => setTimeout(done, 40));
  }
  return times.sort((a, b) => a - b)[6]; // other work on the machine is not the page's
}"""


def test_a_thousand_tokens_take_less_than_50_ms_a_keystroke(desk, fable):
    text = (STORY + " play in the park. They saw a big dog near the tree! ") * 50
    ids = fable.encode(text)
    text = fable.decode(ids[:1000])
    desk.fill(text)
    assert desk.page.locator("#layer .tok").count() == 1000
    assert desk.page.evaluate(STROKES) < 50
    text = desk.text()
    desk.cursor(len(text))
    desk.page.keyboard.press("Control+Enter")  # past the window, which moves on
    desk.wait_generated()
    assert len(desk.text()) > len(text) and desk.text().startswith(text)


def test_undo_while_the_model_generates_stops_it(desk):
    desk.slide("max_new_tokens", 200)
    desk.write(STORY)
    desk.page.click("#generate")
    desk.wait("() => document.getElementById('area').value.length > 80")
    desk.page.keyboard.press("Control+z")
    assert desk.text() == STORY
    desk.page.click("#branches")
    desk.wait_generated()
    assert desk.text() == STORY


# ---- Ways out of the page.


def test_the_copied_command_program_and_request_give_the_letters_of_the_page(desk, fable, served):
    prompt = "It's \"quoted\" $HOME, and\nLily's"
    desk.write(prompt)
    [first] = fable.encode(fable.generate(prompt, seed=1, max_new_tokens=1))
    desk.page.evaluate(
        "async id => (await import('./editor.document.js'))"
        ".settings({bad_words: [[id]], logit_bias: {[id + 1]: -1.5}})",
        first,
    )
    ways = desk.page.evaluate(
        """async prompt => {
          const share = await import('./editor.share.js');
          const write = await import('./editor.write.js');
          const {app} = await import('./editor.state.js');
          return share.copies(prompt, write.asked({n: 1}), app.model);
        }""",
        prompt,
    )
    desk.page.keyboard.press("Control+Enter")
    desk.wait_generated()
    new = desk.text().removeprefix(prompt)
    assert new
    words = shlex.split(ways["shell"])
    assert words[:2] == ["gpt2lab", "generate"]
    made = subprocess.run(
        [sys.executable, "-m", "gpt2lab", *words[1:]], capture_output=True, text=True, check=True
    )
    assert new.strip() in made.stdout
    printed: list[str] = []
    exec(ways["python"], {"print": printed.append})
    assert printed in ([new], [[new]])
    curl = shlex.split(ways["curl"])
    request = urllib.request.Request(
        curl[2], curl[-1].encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["choices"][0]["text"] == new


def test_a_link_carries_text_and_settings(desk):
    desk.write(STORY)
    desk.slide("temperature", 0.5)
    packed = desk.page.evaluate("async () => (await import('./editor.share.js')).packed()")
    other = desk.stranger(f"#share={packed}")
    assert other.text() == STORY
    assert other.page.locator("#knob-temperature").input_value() == "0.5"
    assert "share" not in other.page.url


def test_a_document_comes_back_from_its_file(desk, tmp_path):
    desk.write(STORY)
    desk.page.click("#branches")
    desk.wait_generated()
    desk.page.locator(".branchcard").nth(1).click()
    text = desk.text()
    desk.page.click("#files summary")
    with desk.page.expect_download() as found:
        desk.page.get_by_role("button", name="Save as JSON").click()
    file = tmp_path / "document.json"
    found.value.save_as(file)
    with desk.page.expect_download() as found:
        desk.page.get_by_role("button", name="Save every branch as Markdown").click()
    assert found.value.path().read_text(encoding="utf-8").count("\n## ") == 3
    desk.page.get_by_role("button", name="New", exact=True).click()
    assert desk.text() == ""
    desk.page.click("#files summary")
    desk.page.set_input_files("#import", file)
    desk.expect(desk.page.locator("#status")).to_contain_text("document.json is open")
    assert desk.text() == text
    assert desk.page.locator(".branchcard").count() == 3


def test_a_tree_goes_through_openloom(desk, tmp_path):
    """The names of OpenLoom 1.0 (its pages Nodes and Loom Trees)."""
    desk.write(STORY)
    desk.page.click("#branches")
    desk.wait_generated()
    desk.page.locator(".branchcard").nth(1).click()
    desk.page.click("#files summary")
    with desk.page.expect_download() as found:
        desk.page.get_by_role("button", name="Save as OpenLoom").click()
    file = tmp_path / "tree.openloom.json"
    found.value.save_as(file)
    tree = json.loads(file.read_text(encoding="utf-8"))
    nodes = tree["nodes"]
    root = nodes[tree["rootNodeId"]]
    assert (root["text"], root["author"], root["parentId"]) == (STORY, "user", None)
    branches = [nodes[one] for one in root["childrenIds"]]
    assert [one["author"] for one in branches] == ["assistant"] * 3
    assert STORY + nodes[tree["currentNodeId"]]["text"] == desk.text()
    file.write_text(re.sub(r'"(\d)"', r'"node-\1"', file.read_text(encoding="utf-8")))
    text = desk.text()
    desk.page.get_by_role("button", name="New", exact=True).click()
    desk.page.click("#files summary")
    desk.page.set_input_files("#import", file)
    desk.expect(desk.page.locator("#status")).to_contain_text("is open")
    assert desk.text() == text
    assert desk.page.locator(".branchcard .prose").all_text_contents() == [
        one["text"] for one in branches
    ]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": "gpt2lab-editor", "version": 9}', '{"format": "gpt2lab-editor", '
     '"version": 1, "tree": {"nodes": {"0": {"parent": null, "text": "", "children": [0]}}}}',
     '{"rootNodeId": "a", "nodes": {"a": {"text": "", "childrenIds": ["b"]}}}'],
)  # fmt: skip
def test_a_file_that_is_no_document_changes_nothing(desk, tmp_path, content):
    desk.write("Still here")
    file = tmp_path / "bad.json"
    file.write_text(content)
    desk.page.click("#files summary")
    desk.page.set_input_files("#import", file)
    desk.expect(desk.page.locator("#status.error")).to_contain_text("bad.json cannot be opened")
    assert desk.text() == "Still here"
