"""The Python API, the command line, records, pages and places, with arguments by chance."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gpt2lab
from gpt2lab.lens import page

from .jobs import Case


def _nested() -> list[Any]:
    inside: list[Any] = []
    for _ in range(5000):
        inside = [inside]
    return inside


def odd_values() -> list[Any]:
    """Arguments that people and programs pass by mistake, and some that mean harm."""
    values: list[Any] = [None, True, -1, 0, 1, 3, 2**31, 2**63, 10**400, 0.5, 1e308, -1e-9]
    values += [
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 10**6,
        "\ud800",
        b"x",
        [],
        [[]],
        {},
        set(),
    ]
    values += [_nested(), [1, 2], ["a", ""], (0,), {5: 1.0}, {"a": None}, object(), len, iter([1])]
    values += [np.zeros(3), np.array([1, 2]), np.float32(1), np.int64(2), range(10**12), 1j]
    return values


KEYS = """max_new_tokens temperature top_k top_p min_p typical_p repetition_penalty seed n stop
    num_beams stop_tokens logit_bias no_repeat_ngram_size min_new_tokens frequency_penalty
    presence_penalty greedy after_end echo overflow order nonsense"""


def _nothing(folder: Path) -> None:
    """No files are needed."""


def _calls(lm: Any) -> dict[str, Callable[[Any, dict[str, Any]], Any]]:
    return {
        "generate": lambda odd, more: lm.generate("a", **more),
        "prompt": lambda odd, more: lm.generate(odd, max_new_tokens=2),
        "complete": lambda odd, more: lm.complete(odd, max_new_tokens=2),
        "stream": lambda odd, more: list(lm.stream("a", **more)),
        "score": lambda odd, more: lm.score(odd),
        "logits": lambda odd, more: lm.logits(odd),
        "trace": lambda odd, more: lm.trace(odd),
        "encode": lambda odd, more: lm.tokenizer.encode(odd),
        "allowed": lambda odd, more: lm.tokenizer.encode("a", odd),
        "decode": lambda odd, more: lm.tokenizer.decode(odd),
        "load": lambda odd, more: gpt2lab.load(odd, download=False, engine="numpy"),
        "engine": lambda odd, more: gpt2lab.load(engine=odd),
        "dtype": lambda odd, more: gpt2lab.load(engine="numpy", dtype=odd),
        "replay": lambda odd, more: lm.replay(odd),
    }


def api_cases(lm: Any, tries: int, chance: random.Random) -> Iterator[Case]:
    """Public calls with odd arguments."""
    calls, odd = _calls(lm), odd_values()
    for number in range(60 * tries):
        name = chance.choice(list(calls))
        some = chance.sample(KEYS.split(), chance.randrange(1, 4))
        more = {"max_new_tokens": 2, **{key: chance.choice(odd) for key in some}}
        value = chance.choice(odd)

        def act(folder: Path, name: str = name, value: Any = value, more: Any = more) -> str:
            calls[name](value, more)
            return ""

        said = f"{number} {name} {type(value).__name__} {', '.join(map(str, some))}"
        yield Case("API", said, _nothing, act)


WORDS = """generate score tokenize models look convert prepare bench -l -n -t -k -p --seed --stop
    --json --file --ids --lines --engine --dtype --greedy --num-beams --model --verify --to
    --html --record --replay --out --per-token --layers"""
VALUES = [
    "1",
    "0",
    "-1",
    "3",
    "1e308",
    "nan",
    "",
    "x",
    "fable",
    ".",
    "/dev/null",
    "\udcff",
    "a\nb",
    "," * 1000,
]
VALUES += [
    "9" * 400,
    "é",
    "--",
    "../x",
    "/dev/full",
    "numpy",
    "float32",
    "huggingface",
    "x" * 10**5,
]


def _command(arguments: list[str]) -> str:
    """The program in this process; what it printed is looked through by hand."""
    from gpt2lab import commands

    try:
        commands.main(arguments)
    except SystemExit as end:
        if end.code in (0, None):
            return ""
        if end.code not in (1, 2, 141):
            raise AssertionError(f"exit code {end.code}") from None
        os.lseek(2, 0, os.SEEK_SET)
        told = os.read(2, 10**6).decode("utf-8", "replace")
        if "Traceback" in told or max(map(len, told.split("\n"))) > 2000:
            raise AssertionError(f"printed {len(told)} characters: {told[-1000:]}") from None
        raise gpt2lab.InputError("exit code") from None
    return ""


def command_cases(tries: int, chance: random.Random) -> Iterator[Case]:
    """Command lines by chance."""
    words = WORDS.split()
    for number in range(40 * tries):
        verb = chance.choice(words[:7])
        more = [chance.choice(words[8:] + 2 * VALUES) for _ in range(chance.randrange(6))]
        arguments = [verb, *more]

        def act(folder: Path, arguments: list[str] = arguments) -> str:
            return _command(arguments)

        yield Case("command line", f"{number} {' '.join(arguments)[:80]!a}", _nothing, act)


def record_cases(lm: Any, chance: random.Random) -> Iterator[Case]:
    """A record, each of its values in turn replaced."""
    good = lm.complete("Once", max_new_tokens=3, seed=1)[0].record
    expected = lm.replay(copy.deepcopy(good)).text
    places: list[tuple[Any, ...]] = [(key,) for key in good]
    places += [(k, k2) for k, v in good.items() if isinstance(v, dict) for k2 in v]
    for place in places:
        for odd in chance.sample(odd_values(), 8):
            record = json.loads(json.dumps(good))
            inside = record if len(place) == 1 else record[place[0]]
            inside[place[-1]] = odd

            def act(folder: Path, record: Any = record) -> str:
                return str(lm.replay(record).text)

            yield Case("records", f"{place} {type(odd).__name__}", _nothing, act, expected)


HOSTILE_TEXT = ["</script><img src=x onerror=alert(1)>", "<!--<script>", "\u2028\u2029"]
HOSTILE_TEXT += ["\x1b[31m\0", "\u202eabc", "${a}{{b}}`", "]]>", "&lt;img&gt;", "' onload='x"]


def page_cases(lm: Any) -> Iterator[Case]:
    """Pages of prompts that would be markup if they were let."""
    plain = page.render(lm, lm.encode("a")).count("<script")
    for text in HOSTILE_TEXT:

        def act(folder: Path, text: str = text) -> str:
            made = page.render(lm, lm.encode(text))
            assert made.count("<script") == made.count("</script>") == plain
            for harm in ("<img", "<!--<script", "\u2028", "\x1b", "\0"):
                assert harm not in made, harm
            return ""

        yield Case("pages", repr(text), _nothing, act)


PLACES: list[tuple[str, dict[str, str | None]]] = [
    ("plain", {}),
    ("no HOME", {"HOME": None}),
    ("HOME nowhere", {"HOME": "/nonexistent"}),
    ("HOME in /proc", {"HOME": "/proc"}),
    ("TMPDIR nowhere", {"TMPDIR": "/nonexistent", "HOME": "/nonexistent"}),
    ("cache is a file", {"XDG_CACHE_HOME": "/dev/null"}),
    ("cache is relative", {"XDG_CACHE_HOME": "x"}),
    ("ascii", {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}),
    ("utf-16", {"PYTHONIOENCODING": "utf-16"}),
    ("COLUMNS 0", {"COLUMNS": "0"}),
    ("COLUMNS -5", {"COLUMNS": "-5"}),
    ("COLUMNS x", {"COLUMNS": "x"}),
    ("COLUMNS 1", {"COLUMNS": "1"}),
    ("COLUMNS huge", {"COLUMNS": "999999999"}),
    ("COLUMNS beyond an int", {"COLUMNS": "99999999999999999999"}),
    ("hub cache odd", {"HF_HOME": "\udcff", "HF_HUB_CACHE": "/dev/null/x"}),
]
STREAMS = (
    "</dev/null",
    "<&-",
    ">&-",
    "2>&-",
    ">&- 2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
)


def _process(folder: Path, script: str, more: dict[str, str | None]) -> str:
    env = {key: value for key, value in os.environ.items() if more.get(key, "") is not None}
    env |= {key: value for key, value in more.items() if value is not None}
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=env, capture_output=True)
    told = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert b"Traceback" not in done.stdout + done.stderr, told[-1500:]
    assert done.returncode in (0, 1, 2, 141), (done.returncode, told[-500:])
    assert max(map(len, told.split("\n"))) < 2000 or done.returncode == 0, told[:200]
    return ""


def place_cases() -> Iterator[Case]:
    """Environments and streams, each with a fresh process of the program."""
    program = f"{sys.executable} -m gpt2lab"
    generate = f"{program} generate Once -l 3 --engine numpy"
    look = f"{program} look Once --engine numpy"
    for name, more in PLACES:
        for script in (generate, look) if "COLUMNS" in name else (generate,):

            def act(folder: Path, script: str = script, more: Any = more) -> str:
                return _process(folder, script, more)

            yield Case("places", f"{name}: {script[-30:]}", _nothing, act, seconds=60)
    for streams in STREAMS:
        for verb in (generate, f"{program} tokenize Once", f"{program} models"):

            def piped(folder: Path, script: str = f"{verb} {streams}") -> str:
                return _process(folder, script, {})

            yield Case("places", f"{streams}: {verb[-20:]}", _nothing, piped, seconds=60)
