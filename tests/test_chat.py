"""Chat: the script, its end at the next speaker, its trimming by turns."""

from __future__ import annotations

import pytest

import gpt2lab
from gpt2lab import Chat, InputError


@pytest.fixture
def chat():
    return Chat(gpt2lab.load(), settings={"max_new_tokens": 12, "seed": 1})


def say(chat, text):
    return "".join(piece.text for piece in chat.reply(text))


def test_the_prompt_is_a_script(chat):
    chat.opening = "A talk."
    chat.turns = [("You", "Hello."), ("Friend", "Hi!"), ("You", "How are you?")]
    assert chat.prompt() == "A talk.\nYou: Hello.\nFriend: Hi!\nYou: How are you?\nFriend:"


def test_an_answer_is_kept_and_never_speaks_for_the_other(chat):
    for text in ("Hello.", "What is your name?", "Do you like cakes?"):
        answer = say(chat, text)
        assert "\nYou:" not in answer and "\nFriend:" not in answer
    assert [speaker for speaker, _ in chat.turns] == ["You", "Friend"] * 3


def test_the_answer_stops_at_the_next_speaker(chat, monkeypatch):
    """A model that writes the other's line too: its text ends before it."""
    script = " Fine, thanks!\nYou: And me?"
    encoded = iter([*chat.lm.tokenizer.encode(script), 4095])
    monkeypatch.setattr(
        "gpt2lab.generation.batch.draw_rows",
        lambda engine, rows: [(next(encoded), 0.0) for _ in rows],
    )
    chat.settings["max_new_tokens"] = 60
    assert say(chat, "How are you?") == " Fine, thanks!"
    assert chat.turns[-1] == ("Friend", "Fine, thanks!")


def test_old_turns_go_when_the_window_is_full_and_it_is_said(chat):
    chat.turns = [
        ("You" if i % 2 == 0 else "Friend", f"line {i} " + "word " * 20) for i in range(60)
    ]
    say(chat, "And now?")
    assert chat.dropped > 0
    script = chat.prompt()
    assert script.startswith(("You: line", "Friend: line"))
    assert len(chat.lm.tokenizer.encode(script)) <= 512


def test_a_message_that_never_fits_is_refused_and_leaves_no_trace(chat):
    with pytest.raises(InputError, match="write a shorter one"):
        chat.reply("word " * 600)
    with pytest.raises(InputError, match="empty"):
        chat.reply("  ")
    assert chat.turns == []


def test_undo_and_reset(chat):
    say(chat, "One.")
    say(chat, "Two.")
    assert chat.undo() and chat.turns[0][1] == "One." and len(chat.turns) == 2
    chat.reset()
    assert chat.turns == [] and not chat.undo()


def test_an_answer_broken_off_is_kept_as_far_as_it_came(chat):
    pieces = chat.reply("Tell me a story.")
    first = next(pieces).text + next(pieces).text
    pieces.close()
    assert chat.turns[-1] == ("Friend", first.strip())


def test_settings_under_other_names_reach_the_answer(chat, caplog):
    chat.settings = {"max_tokens": 3, "stop_strings": ["zzz"], "nsamples": 2, "seed": 1}
    pieces = list(chat.reply("hi"))
    assert "is taken as" in caplog.text
    assert len(pieces) == 3 and {piece.index for piece in pieces} == {0}
