"""The command line as its users meet it: results, notes, exit codes, wrong input, Ctrl-C."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time

import click
import pytest

import gpt2lab
from gpt2lab import commands
from gpt2lab.commands import VERBS

from .support import FABLE


def fails(result, *words, code=2):
    """The one line of a refusal, with these words in it."""
    got, out, err = result
    assert got == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1 and lines[0].startswith("gpt2lab: "), err
    for word in words:
        assert word in lines[0]


SHORT = ("-l", "8", "--seed", "1")


# ---- generate


def test_a_prompt_is_continued(run):
    code, out, err = run("generate", "Once upon a time", *SHORT)
    expected = gpt2lab.load().generate("Once upon a time", max_new_tokens=8, seed=1)
    assert (code, out, err) == (0, expected + "\n", "")


def test_the_prompt_may_come_from_a_file_or_standard_input(run, tmp_path):
    _, expected, _ = run("generate", "The dog", *SHORT)
    (tmp_path / "prompt.txt").write_text("The dog\n")
    assert run("generate", "--file", str(tmp_path / "prompt.txt"), *SHORT)[1] == expected
    assert run("generate", *SHORT, stdin=b"The dog\n")[1] == expected
    assert run("generate", "--file", "-", *SHORT, stdin=b"The dog")[1] == expected


def test_one_line_end_at_the_end_is_the_shell_s_the_rest_is_the_prompt_s(run, tmp_path):
    (tmp_path / "p").write_text("A\n\n")
    for args, stdin in ((["--file", str(tmp_path / "p")], b""), ([], b"A\n\n")):
        _, out, _ = run("generate", *args, *SHORT, "--json", stdin=stdin)
        assert json.loads(out)["prompt"] == "A\n"


def test_every_line_may_be_a_prompt(run):
    lm = gpt2lab.load()
    code, out, _ = run("generate", "--lines", *SHORT, stdin=b"The dog\n\nA cat\n")
    texts = [lm.generate(p, max_new_tokens=8, seed=1) for p in ("The dog", "A cat")]
    assert code == 0
    assert out == f"{texts[0]}\n{'=' * 20}\n{texts[1]}\n"


def test_samples_delimiter_prompt_and_file(run, tmp_path):
    out = tmp_path / "texts.txt"
    code, shown, _ = run(
        "generate",
        "A cat",
        "-n",
        "2",
        *SHORT,
        "--delimiter",
        "--\\n",
        "--include-prompt",
        "--out",
        str(out),
    )
    assert (code, shown) == (0, "")
    texts = gpt2lab.load().generate("A cat", max_new_tokens=8, seed=1, n=2)
    assert out.read_text() == f"A cat{texts[0]}\n--\nA cat{texts[1]}\n"
    fails(run("generate", "A cat", "--out", str(out)), "exists and is left as it is", "--force")
    assert "A cat" in out.read_text()
    assert run("generate", "A", *SHORT, "--out", str(out), "--force")[0] == 0
    assert list(tmp_path.iterdir()) == [out]


def test_truncate_ends_before_the_text(run):
    _, whole, _ = run("generate", "Once upon a time", "-l", "30", "--seed", "1")
    word = whole.split()[5]
    _, cut, _ = run("generate", "Once upon a time", "-l", "30", "--seed", "1", "--truncate", word)
    assert whole.startswith(cut.removesuffix("\n")) and word not in cut


def test_no_prompt_at_all(run):
    code, out, _ = run("generate", "--unconditional", *SHORT)
    assert code == 0 and out.strip()


def test_ids_as_prompt(run):
    lm = gpt2lab.load()
    ids = " ".join(map(str, lm.tokenizer.encode("A cat")))
    assert run("generate", "--ids", ids, *SHORT)[1] == run("generate", "A cat", *SHORT)[1]


def test_replay_takes_all_from_the_record(run, tmp_path):
    record, out = tmp_path / "r.json", tmp_path / "o.txt"
    _, text, _ = run("generate", "A", *SHORT, "--dtype", "float64", "--record", str(record))
    fails(run("generate", "B", "--replay", str(record)), "leave out PROMPT")
    fails(run("generate", "--replay", str(record), "-t", "2"), "leave out --temperature")
    fails(run("generate", "--replay", str(record), "--out", str(record), "--force"), "same file")
    code, shown, _ = run("generate", "--replay", str(record), "--out", str(out))
    assert (code, shown, out.read_text()) == (0, "", text)
    assert json.loads(record.read_text())["engine"]["dtype"] == "float64"


def test_a_failed_run_leaves_an_old_file_alone(run, tmp_path):
    out = tmp_path / "o.txt"
    out.write_text("OLD")
    code, _, _ = run("generate", "A", "--out", str(out), "--force", "--bad-words", "", "-l", "2")
    assert code == 2 and out.read_text() == "OLD"
    (tmp_path / "o.txt.part").write_text("mine")
    assert run("generate", "A", *SHORT, "--out", str(out), "--force")[0] == 0
    assert (tmp_path / "o.txt.part").read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(out)
    assert run("generate", "A", *SHORT, "--out", str(link), "--force")[0] == 0
    assert link.is_symlink()
    for target, words in (("/dev/null", "ordinary"), (str(tmp_path), "folder"), ("x/", "folder")):
        fails(run("generate", "A", "--out", target, "--force"), words)
    fails(run("generate", "A", "--out", "s", "--record", "s"), "same file")


def test_what_a_closed_pipe_and_ctrl_c_leave_is_kept(tmp_path):
    record = tmp_path / "r.jsonl"
    head = program(
        *("generate", "A", "--endless", "-l", "10", "--record", str(record)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    head.stdout.readline()
    head.stdout.close()
    assert head.wait(60) == 141
    head.stderr.close()
    assert record.read_text().count("\n") >= 1


def test_a_private_file_stays_private_and_a_name_may_be_long(run, tmp_path):
    out = tmp_path / ("\u6f22" * 84)
    out.write_text("x")
    out.chmod(0o600)
    assert run("generate", "A", *SHORT, "--out", str(out), "--force")[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    fails(run("generate", "A", "--out", str(tmp_path / ("x" * 300))), "longer than 255 bytes")
    fails(run("generate", "A", "--out", ""), "name of the file to write is empty")


def test_records_in_every_arrangement_replay(run, tmp_path):
    _, text, _ = run("generate", "A", *SHORT, "--record", str(tmp_path / "r"))
    line = (tmp_path / "r").read_text()
    (tmp_path / "blank").write_text(line + "\n\n" + line)
    (tmp_path / "list").write_text(f"[{line},{line}]")
    for name in ("blank", "list"):
        shown = run("generate", "--replay", str(tmp_path / name))[1]
        assert shown == f"{text}{'=' * 20}\n{text}"
    (tmp_path / "bad").write_text(line + "\n{}\n")
    fails(run("generate", "--replay", str(tmp_path / "bad")), "line 3", "no record")


def test_ids_are_shown_as_prompt_too(run):
    assert run("generate", "--ids", "37 38", *SHORT, "--include-prompt")[1].startswith("FG")


def test_json_is_whole_on_any_console():
    done = subprocess.run(
        [sys.executable, "-m", "gpt2lab", "tokenize", "caf\u00e9", "--json", "-m", "124M"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert "".join(json.loads(done.stdout)["pieces"]) == "caf\u00e9"


def test_closed_streams_are_no_traceback():
    for redirect in (">&-", "<&-", "2>&-", ">/dev/full"):
        done = subprocess.run(
            f"{sys.executable} -m gpt2lab tokenize a {redirect}",
            shell=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert b"Traceback" not in done.stderr, redirect
        assert done.returncode in (0, 1), redirect


def test_help_into_a_closed_pipe():
    done = subprocess.run(
        f"bash -c '{sys.executable} -m gpt2lab generate --help | true; exit ${{PIPESTATUS[0]}}'",
        shell=True,
        capture_output=True,
    )
    assert done.returncode in (0, 141) and b"Traceback" not in done.stderr


def test_records_replay(run, tmp_path):
    record = tmp_path / "record.json"
    _, out, _ = run("generate", "A cat", "-n", "2", "-l", "12", "--record", str(record))
    again = run("generate", "--replay", str(record))
    assert again == (0, out, "")
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert rows[0]["settings"]["seed"] == rows[0]["seed"] is not None
    assert len(rows[0]["tokens"]) == len(rows[0]["logprobs"]) == 12
    record.write_text(json.dumps(rows[1], indent=1))
    code, text, _ = run("generate", "--replay", str(record), "--json")
    assert code == 0 and json.loads(text) == rows[1]
    rows[1]["model"]["sha256"] = "0" * 64
    record.write_text(json.dumps(rows[1]))
    fails(run("generate", "--replay", str(record)), "000000000000", "load that model")
    record.write_text("{}")
    fails(run("generate", "--replay", str(record)), "no record")
    record.write_text("not json")
    fails(run("generate", "--replay", str(record)), "no record")


def test_json_is_one_record_a_line(run):
    code, out, _ = run("generate", "A", "-n", "3", *SHORT, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["index"] for row in rows] == [0, 1, 2]
    assert {"text", "tokens", "logprobs", "settings", "seed", "model", "finish_reason"} <= set(
        rows[0]
    )


def test_a_trailing_space_gets_a_hint_and_is_kept(run):
    code, out, err = run("generate", "A cat ", *SHORT, "--json")
    assert code == 0 and err.startswith("note: the prompt ends with a space")
    assert json.loads(out)["prompt"] == "A cat "


def test_the_flags_of_the_official_scripts_and_of_gpt_2_simple(run, tmp_path):
    _, expected, _ = run(
        "generate", "A cat", "-n", "2", "-l", "6", "-s", "4", "--preset", "openai", "--top-k", "40"
    )
    code, out, err = run(
        "generate",
        "A cat",
        "--preset",
        "openai",
        "--nsamples=2",
        "--length=6",
        "--seed=4",
        "--top_k=40",
        "--top_p=1",
        "--temperature=1",
    )
    assert (code, out) == (0, expected)
    assert "note: --length is taken as --max-new-tokens" in err
    target = tmp_path / "gen.txt"
    theirs = "--nsamples 2 --length 6 --seed 4 --temperature 0.7 --top_k 0 --top_p 0.0 --multi_gpu "
    theirs += "--include_prefix True --return_as_list False --truncate <|endoftext|>"
    code, _, err = run(
        "generate",
        "--prefix",
        "A cat",
        *theirs.split(),
        "--preset",
        "gpt-2-simple",
        "--sample_delim",
        "====\\n",
        "--destination_path",
        str(target),
    )
    assert code == 0, err
    parts = target.read_text().split("====\n")
    assert len(parts) == 2 and all(part.startswith("A cat") for part in parts)
    fails(run("generate", "A", "--run_name", "mine"), "checkpoint/mine")


def test_presets_beams_and_orders_reach_the_sampler(run):
    code, out, _ = run("generate", "A cat", "-l", "5", "--num-beams", "3", "-n", "2", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and rows[0]["settings"]["temperature"] == 0
    code, out, _ = run(
        "generate", "A cat", "-l", "5", "--processors", "top_k,temperature", "--top-k", "3",
        "--stop", "\\n", "--bad-words", "dog", "--logit-bias", "5=-2", "--json",
    )  # fmt: skip
    assert code == 2  # bad words and biases are not in the given order
    code, out, _ = run(
        "generate", "A", "-l", "3", "--bad-words", "dog", "--logit-bias", "5=-2", "--json"
    )
    assert json.loads(out)["settings"]["logit_bias"] == {"5": -2.0}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([""], ["prompt is empty"]),
        (["A", "-m", "nosuch"], ["nosuch", "gpt2lab models"]),
        (["A", "-m", "./no/such"], ["./no/such"]),
        (["A", "--top-p", "0"], ["top_p is 0"]),
        (["A", "--top-p", "2"], ["top_p is 2"]),
        (["A", "-t", "-1"], ["temperature is -1"]),
        (["A", "-n", "0"], ["n is 0"]),
        (["A", "--preset", "x"], ["preset 'x'"]),
        (["A", "--engine", "x"], ["engine is 'x'"]),
        (["A", "--dtype", "int3"], ["dtype is 'int3'"]),
        (["A", "--logit-bias", "5"], ["TOKEN=BIAS"]),
        (["--ids", "5 x"], ["'x'"]),
        (["A", "-t", "nan"], ["temperature is nan"]),
        (["A", "-t", "1e-40"], ["temperature is 1e-40"]),
        (["A", "--length-penalty", "1e300", "--num-beams", "2"], ["length_penalty"]),
        (["A", "--endless", "--num-beams", "2"], ["--endless"]),
        (["A", "--ignore-end", "--stop-tokens", "5"], ["contradict"]),
        (["--ids", "99999"], ["id 99999", "4095"]),
        (["A", "--file", "f"], ["more than one", "--file"]),
        (["--file", "/nonexistent"], ["/nonexistent", "No such file"]),
        (["--file", "/"], ["folder"]),
        (["A", "--lines"], ["--lines"]),
        (["A", "--overflow", "cut"], ["overflow is 'cut'"]),
        (["A", "--out", "/nonexistent/x"], ["/nonexistent"]),
        (["A", "--min-new-tokens", "9", "-l", "5"], ["min_new_tokens 9"]),
        (["A", "--stop-tokens", "5000"], ["5000"]),
    ],
    ids=str,
)
def test_bad_input_of_generate(run, args, words):
    fails(run("generate", *args), *words)


def test_binary_and_empty_standard_input(run):
    fails(run("generate", stdin=b"\xff\xfe\x00"), "standard input is not UTF-8", "offset 0")
    fails(run("generate", stdin=b"a\0b"), "zero byte at offset 1")
    fails(run("generate", stdin=b""), "prompt is empty")
    fails(run("generate", "--lines", stdin=b"\n\n"), "every line is empty")


def test_a_prompt_that_is_too_long_is_refused_with_its_count(run):
    long = b"word " * 600
    fails(run("generate", stdin=long), "tokens, the model sees 512", "tail")
    code, out, _ = run("generate", *SHORT, "--overflow", "tail", stdin=long.strip())
    assert code == 0 and out.strip()
    assert run("generate", *SHORT, "--overflow", "head+tail", stdin=long.strip())[0] == 0


def test_a_read_only_target_is_one_line(run, tmp_path):
    if os.geteuid() == 0:
        target = "/proc/version_gpt2lab"  # not writable even for root
    else:
        tmp_path.chmod(0o500)
        target = str(tmp_path / "x")
    code, _, err = run("generate", "A", *SHORT, "--out", target)
    assert code == 2 and "Traceback" not in err and target in err


# ---- the other verbs


def test_score(run):
    lm = gpt2lab.load()
    code, out, _ = run("score", "The cat sat.", "--json")
    row = json.loads(out)
    assert code == 0 and row["total"] == pytest.approx(lm.score("The cat sat.").total)
    _, out, _ = run("score", "The cat sat.", "--per-token", "--per-word")
    assert "perplexity" in out and "bits" in out and "sat." in out
    fails(run("score", ""), "the text is empty")
    fails(run("score", "abc", "--stride", "0"), "stride is 0")
    fails(run("score", "A", "--stride", "0", "--file", "x"), "twice")


def test_tokenize_and_back(run):
    code, out, _ = run("tokenize", "Hello, world")
    lm = gpt2lab.load()
    assert code == 0 and [int(i) for i in out.split()] == lm.tokenizer.encode("Hello, world")
    assert run("tokenize", "--decode", out.strip())[1] == "Hello, world\n"
    code, out, _ = run("tokenize", "Hello world", "--model", "124M")
    assert out == "15496 995\n"
    code, out, _ = run("tokenize", "h\u00e9", "--json", "-m", "gpt2")
    row = json.loads(out)
    assert row["ids"] == [71, 2634] and row["offsets"] == [[0, 1], [1, 2]]
    _, out, _ = run("tokenize", "hello world", "--steps", "--model", "124M")
    assert "h e l l o" in out and "hello" in out and "31373" in out
    _, out, _ = run("tokenize", "a<|endoftext|>", "--model", "124M")
    assert out == "64 27 91 437 1659 5239 91 29\n"
    _, out, _ = run("tokenize", "a<|endoftext|>", "-m", "124M", "--allow", "<|endoftext|>")
    assert out == "64 50256\n"
    fails(run("tokenize", "--decode", "9 x"), "'x'")
    fails(run("tokenize", "--decode", "999999"), "999999")
    fails(run("tokenize", "a", "--allow", "<pad>"), "<pad>")


def test_learn_a_vocabulary(run, tmp_path):
    pytest.importorskip("tokenizers")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the cat\n" * 50)
    target = tmp_path / "vocabulary"
    assert run("tokenize", "--learn", str(target), "--vocab-size", "300", str(text))[0] == 0
    code, out, _ = run("tokenize", "the cat", "-m", str(target))
    assert code == 0 and len(out.split()) == 2
    fails(run("tokenize", "--learn", str(target), str(text)), "not empty")


def test_chat_answers_and_obeys(run):
    said = ["Hello", "/set temperature 0.5", "/set top_p 7", "/undo", "/undo", "/nonsense"]
    said += ["/settings", "/reset", "/quit"]
    typed = "\n".join([*said, ""]).encode()
    code, out, err = run("chat", "-l", "8", "--seed", "1", stdin=typed)
    assert code == 0 and "Friend:" in out
    assert "temperature is 0.5 now." in err and "top_p is 7.0; it must be" in err
    assert "taken back" in err and "nothing to undo" in err and "no command '/nonsense'" in err
    assert "temperature = 0.5" in err and "forgotten" in err


def test_a_reply_in_a_chat_ends_at_a_blank_line_until_that_is_unset(run):
    typed = b"/settings\n/set end_on none\n/settings\n/quit\n"
    code, _, err = run("chat", stdin=typed)
    assert code == 0
    begun, unset, now = err.partition("end_on is unset now.")
    assert "end_on = paragraph" in begun and unset and "end_on = None" in now


def test_convert_and_models(run, tmp_path):
    target = tmp_path / "llmc.bin"
    code, out, err = run("convert", str(FABLE), str(target), "--to", "llmc", "--verify")
    assert code == 0, err
    assert "top-1" in out
    fails(run("convert", str(FABLE), str(target), "--to", "llmc"), "--force")
    fails(run("convert", str(FABLE), str(tmp_path / "x"), "--to", "gguf"), "gguf")
    code, out, _ = run("models", str(tmp_path), "--json")
    names = [row["name"] for row in json.loads(out)]
    assert code == 0 and names == [str(target)]
    assert "fable" in run("models")[1]


# ---- the program itself


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0 and f"gpt2lab {verb}" in out.split("--help")[1]


@pytest.mark.parametrize("verb", VERBS)
def test_long_help_lists_each_option_under_one_heading(verb):
    command = commands.group.get_command(click.Context(commands.group), verb)
    options = {
        option.name: option.help
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    }
    listed = [name for names in getattr(command, "headings", {}).values() for name in names]
    assert len(options) <= 10 or set(options) <= set(listed)
    assert all(listed.count(name) <= 1 for name in options)
    for text in options.values():
        sentence = text.partition("  [")[0]  # the default is in brackets
        assert sentence[0].isupper() and sentence.endswith("."), text


def test_no_verb_a_wrong_verb_a_wrong_flag(run):
    code, _, err = run()
    assert code == 2 and "generate" in err
    fails(run("genrate"), "did you mean generate?")
    code, _, err = run("generate", "A", "--temprature", "1")
    assert code == 2 and "--temperature" in err
    assert run("--version")[:2] == (0, f"gpt2lab, version {gpt2lab.__version__}\n")


def program(*args: str, **options):
    return subprocess.Popen([sys.executable, "-m", "gpt2lab", *args], **options)


def test_a_closed_pipe_is_no_traceback():
    head = program(
        "generate", "A", "--endless", "-l", "20", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    head.stdout.readline()
    head.stdout.close()
    assert head.wait(60) == 141
    assert head.stderr.read() == b""
    head.stderr.close()


def test_ctrl_c_ends_a_generation_with_130_and_keeps_the_text(tmp_path):
    out = tmp_path / "texts.txt"
    running = program(
        "generate",
        "A",
        "-l",
        "30",
        "-n",
        "2000",
        "--batch-size",
        "1",
        "--record",
        str(out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    first = running.stdout.readline()
    assert first.strip()
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in err
    assert len(out.read_text().splitlines()) >= 1


def test_at_a_terminal_prompts_are_asked_for_and_control_characters_are_tamed():
    parent, child = pty.openpty()
    running = program(
        "generate",
        "-l",
        "5",
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(child)
    shown = b""
    os.write(parent, b"\nThe dog\n\x04")
    deadline = time.time() + 60
    while time.time() < deadline:
        try:
            shown += os.read(parent, 4096)
        except OSError:
            break
    os.close(parent)
    assert running.wait(60) == 0
    assert (
        b"Model prompt >>> " in shown
        and b"The prompt is empty" in shown
        and b"Traceback" not in shown
    )


def test_a_console_that_is_not_utf_8_gets_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "gpt2lab", "tokenize", "--decode", "172 253 246 222"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_log_records_of_the_library_are_notes_and_a_warning_comes_once(capsys, monkeypatch):
    """Chat and the prompt loop translate the same settings again at every turn."""
    log = logging.getLogger("gpt2lab.engines")

    def invoke(ctx):
        log.debug("hidden")
        for _ in range(2):
            log.info("compiling")
            log.warning("n is 1")

    monkeypatch.setattr(commands.Verbs, "invoke", lambda self, ctx: invoke(ctx))
    commands.main(["models"])
    assert capsys.readouterr().err == "note: compiling\nnote: n is 1\nnote: compiling\n"
    assert logging.getLogger("gpt2lab").handlers == []
