"""The other views of the editor: Chat, Read, Inside, Compare; languages, labels, size."""

from __future__ import annotations

import math
import re

import pytest

import gpt2lab
from gpt2lab.chat import Chat
from gpt2lab.pages import editor

pytest.importorskip("playwright", reason="playwright drives the browser; it is in the extra dev")
from .editor_helpers import BROWSER, calls, desk, served, window  # noqa: F401
from .test_editor import STORY

pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not on the path")
VIEWS = ("write", "chat", "read", "inside", "compare")


@pytest.fixture(scope="module")
def fable():
    return gpt2lab.load()


# ---- The files.


def test_the_page_and_that_of_look_together_are_small():
    """What the frame of `look` shares with the page, the kit, is counted once."""
    size = sum(len(file.content) for file in editor.files().values())
    assert size - len(editor.part("kit.js").encode()) < 200_000


def test_nothing_but_the_one_implementation_asks_the_server():
    for name, file in editor.files().items():
        if name != "editor.api.js":
            assert not re.search(rb"\b(fetch|XMLHttpRequest|WebSocket|EventSource)\b", file.content)
        assert b"innerHTML" not in file.content and b"eval(" not in file.content
        assert not re.search(rb"https?://", file.content), name


def test_the_page_has_no_script_or_style_of_its_own():
    for name in ("index.html", "look.html"):
        text = editor.files()[name].content.decode()
        assert not re.search(r"<style|<script(?! (type=\"module\" )?src=)|\son\w+=|\sstyle=", text)
    assert "unsafe" not in editor.POLICY and "default-src 'none'" in editor.POLICY


def test_every_sentence_is_in_both_languages():
    words = editor.part("editor.words.js")
    entries = re.findall(r"(\w+): \['((?:[^'\\]|\\.)*)',\s+'((?:[^'\\]|\\.)*)'\]", words)
    assert len(entries) > 150 and len(re.findall(r"\w+: \['", words)) == len(entries)
    for key, english, chinese in entries:
        assert sorted(re.findall(r"\{\d\}", english)) == sorted(re.findall(r"\{\d\}", chinese)), key
    used = set()
    for name, file in editor.files().items():
        if name.startswith(("editor.", "index")) and name != "editor.words.js":
            text = file.content.decode()
            used |= set(re.findall(r"\bt\('(\w+)'[,)]", text))
            used |= set(re.findall(r'data-(?:t|label)="(\w+)"', text))
    assert used <= {key for key, _, _ in entries}


# ---- The views.


def test_a_chat_asks_what_the_command_asks_and_shows_what_was_left_out(desk, fable):
    desk.page.click("#tab-chat")
    desk.slide("max_new_tokens", 20)
    turns = [(who, f"Number {i}, please. " * 8) for i in range(9) for who in ("You", "Friend")]
    desk.page.evaluate(
        "async turns => (await import('./editor.document.js')).talk({turns})",
        [{"who": who, "text": text.strip()} for who, text in turns],
    )
    desk.page.fill("#message", "Hello!")
    desk.page.keyboard.press("Enter")
    desk.expect(desk.page.locator(".turn")).to_have_count(20)
    desk.expect(desk.page.locator("#halt")).to_be_disabled()
    turns = [(who, text.strip()) for who, text in turns]
    chat = Chat(fable, turns=[*turns, ("You", "Hello!")], settings={"max_new_tokens": 20})
    assert desk.page.locator("#frame pre").text_content() == chat.prompt()
    assert chat.dropped > 0
    desk.expect(desk.page.locator(".turn.dropped")).to_have_count(chat.dropped)
    stop = ["\nYou:", "\nFriend:"]
    settings = {"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 20, "stop": stop}
    last = desk.page.locator(".turn .prose").last
    answer = fable.generate(chat.prompt(), seed=1, **settings).strip()
    assert last.text_content() in (answer, "…")
    desk.page.get_by_role("button", name="Retry").last.click()
    desk.expect(desk.page.locator("#knob-seed")).to_have_value("3")
    again = fable.generate(chat.prompt(), seed=2, **settings).strip()
    desk.expect(last).to_have_text(again or "…")
    desk.page.get_by_role("button", name="Edit").last.click()
    desk.page.locator(".turn textarea").fill("What I meant")
    desk.page.get_by_role("button", name="Keep").click()
    desk.expect(last).to_have_text("What I meant")


def test_read_measures_as_the_command_does(desk, fable):
    desk.page.click("#tab-read")
    desk.page.fill("#read-0", STORY + " play.")
    desk.page.fill("#read-1", "Colourless green ideas sleep furiously.")
    desk.page.click("#measure")
    desk.expect(desk.page.locator("#readings .facts")).to_have_count(2)
    for i, text in enumerate((STORY + " play.", "Colourless green ideas sleep furiously.")):
        score = fable.score(text)
        facts = desk.page.locator("#readings .facts").nth(i).locator("dd").all_text_contents()
        assert float(facts[0]) == pytest.approx(score.bits_per_byte, abs=6e-5)
        assert float(facts[1].replace(",", "")) == pytest.approx(score.perplexity, rel=1e-4)
        assert int(facts[3]) == score.n_scored and int(facts[4]) == score.n_bytes
    desk.expect(desk.page.locator("#readings > p")).to_contain_text("Text 1 is the one")
    first = desk.page.locator("#readings div.card").first
    worst = first.locator(".scroll tbody tr").first.locator("td").nth(4).text_content()
    expected = max(-x for x in fable.score(STORY + " play.").logprobs) / math.log(2)
    assert float(worst) == pytest.approx(expected, abs=6e-4)


def test_the_words_that_made_a_word_are_those_that_cost_bits_when_left_out(desk, fable):
    text = "The king had a dog. One day, the dog saw the king"
    desk.page.click("#tab-read")
    desk.page.fill("#read-0", text)
    desk.page.click("#measure")
    words = desk.page.locator("#readings .coloured").first.locator(".tok")
    desk.wait("() => document.querySelectorAll('#readings .coloured .tok').length > 9")
    words.last.click()
    made = desk.page.locator("#made-0 .tok")
    desk.wait("() => document.querySelectorAll('#made-0 .tok').length === 11")
    made.nth(1).hover()  # " king": without it the last word costs more
    parts = text.split(" ")

    def cost(words: list[str]) -> float:
        context, end = " ".join(words[:-1]), " " + words[-1]
        both = fable.score(context + end).logprobs
        return -sum(both[len(fable.encode(context)) :]) / math.log(2)

    expected = cost([*parts[:1], *parts[2:]]) - cost(parts)
    desk.expect(desk.page.locator("#tip")).to_contain_text("bits more")
    shown = re.search(r"costs (\S+) bits", desk.page.locator("#tip").text_content())[1]
    assert float(shown.replace("−", "-")) == pytest.approx(expected, abs=6e-3)


def test_inside_is_the_page_of_look_and_a_head_can_be_silenced(desk):
    desk.page.click("#tab-inside")
    desk.page.fill("#inside-text", "The king had a dog")
    desk.page.click("#look")
    frame = desk.page.frame_locator("iframe.look")
    desk.expect(frame.locator("#name")).to_have_text("fable")
    desk.expect(frame.locator("#next .bars tr").first).to_be_visible()
    desk.page.fill("#act-layer", "5")
    desk.page.fill("#act-head", "1")
    desk.page.click("#act")
    desk.expect(frame.locator("#acts")).to_contain_text("Changed model")
    desk.expect(frame.locator("#next")).to_contain_text("plain")
    desk.page.fill("#act-layer", "9")
    desk.page.click("#act")
    desk.expect(desk.page.locator("#status.error")).to_contain_text("Layers end at 5")


def test_compare_names_the_first_token_that_differs(desk, fable):
    desk.page.click("#tab-compare")
    desk.page.fill("#compare-text", STORY)
    desk.page.click("#run")
    desk.expect(desk.page.locator("#distances .tok").first).to_be_visible()
    sides = [{"temperature": 0.7, "top_p": 0.95}, {"temperature": 1.1, "top_p": 1.0}]
    texts = [fable.generate(STORY, max_new_tokens=40, seed=1, **side) for side in sides]
    for i, text in enumerate(texts):
        assert desk.page.locator(f"#text-{i}").text_content() == text
    a, b = (fable.tokenizer.encode(text) for text in texts)
    place = next(i for i, (x, y) in enumerate(zip(a, b, strict=False), 1) if x != y)
    desk.expect(desk.page.locator("#diverges")).to_contain_text(f"new token {place}:")


# ---- For everyone.


def test_both_languages_and_the_first_visit(window, served):
    context = window.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(served)
    page.wait_for_function("() => window.ready === true")
    assert page.locator("#tour li").count() == 5
    page.click("#tour .main")
    assert page.locator("#generate").text_content() == "生成"
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.click("#language")
    assert page.locator("#generate").text_content() == "Generate"
    page.reload()
    page.wait_for_function("() => window.ready === true")
    assert page.locator("#generate").text_content() == "Generate"
    assert not page.locator("#tour").is_visible()
    context.close()


def test_a_server_that_wants_a_key_is_given_it(window, served):
    def guard(route):
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "the key is missing"}})

    page = window.new_context().new_page()
    page.route("**/v1/models", guard)
    page.goto(served)
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('key')?.value === ''")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.wait_for_function("() => window.ready === true")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(desk, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    desk.page.emulate_media(color_scheme=scheme)
    desk.write(STORY)
    desk.page.click("#branches")
    desk.wait_generated()
    desk.page.click("#futurebox summary")
    desk.page.wait_for_timeout(500)
    for view in VIEWS:
        desk.page.click(f"#tab-{view}")
        if view == "read":
            desk.page.click("#read .row button:nth-child(2)")
            desk.expect(desk.page.locator("#readings .facts")).to_be_visible()
        if view == "chat":
            desk.page.fill("#message", "Hello")
            desk.page.keyboard.press("Enter")
            desk.expect(desk.page.locator(".turn")).to_have_count(2)
        desk.page.locator("#status").evaluate("node => node.textContent")
        found = axe.run(desk.page, context="body", options={"iframes": False}).response
        serious = [
            (one["id"], node["html"][:120], node["any"][:1])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]
        assert serious == [], view


def test_a_phone_shows_each_view_without_scrolling_sideways(desk):
    desk.page.set_viewport_size({"width": 390, "height": 800})
    desk.write(STORY)
    for view in VIEWS:
        desk.page.click(f"#tab-{view}")
        desk.page.wait_for_timeout(150)
        wide = desk.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, view


def test_everything_can_be_reached_by_keys(desk):
    desk.page.locator("#tab-write").focus()
    desk.page.keyboard.press("ArrowRight")
    desk.expect(desk.page.locator("#tab-chat")).to_be_focused()
    desk.expect(desk.page.locator("#chat")).to_be_visible()
    desk.page.keyboard.press("ArrowLeft")
    desk.write("Once")
    desk.page.keyboard.press("Escape")
    desk.page.keyboard.press("Tab")  # Esc, then Tab leaves the text
    desk.expect(desk.page.locator("#area")).not_to_be_focused()
