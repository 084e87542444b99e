"""Questions with several endings: the model chooses the one that it finds most probable.

Protocols: `sum` by the log-probability of the ending, `per-token` by its mean over tokens (llm.c's
HellaSwag), `per-character` by its mean over characters (the harness's acc_norm), and for cloze
questions `choice+rest` by the choice and the rest of the sentence, `choice` by the choice alone.
Of equal values the first ending counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt2lab.errors import InputError
from gpt2lab.evals import reading
from gpt2lab.evals.data import Published, records, text_of
from gpt2lab.evals.detokenizers import DETOKENIZERS
from gpt2lab.evals.measures import Measure, PublishedNumber
from gpt2lab.evals.perplexity import SIZES, paper
from gpt2lab.evals.task import Task, Watch, rotated
from gpt2lab.files.io import damaged
from gpt2lab.lm import LM


@dataclass(frozen=True)
class Choice:
    """A context, endings, and which of them is right.

    rest: of the sentence, after an ending. longer: the context as the harness puts it together,
    where that is another one.
    """

    context: str
    endings: tuple[str, ...]
    right: int
    rest: str = ""
    longer: str = ""


def _choice(where: str, context: str, endings: Sequence[str], right: int, rest: str = "") -> Choice:
    if len(endings) < 2 or not 0 <= right < len(endings):
        raise damaged(where, f"names answer {right} of {len(endings)}")
    return Choice(context, tuple(endings), right, rest)


def score_choices(lm: LM, items: list[Choice], prefix: str, watch: Watch) -> list[Measure]:
    """The accuracies `sum`, `per-token` and `per-character`."""
    asked = []
    for item in items:
        pairs = [reading.split(lm, item.context, " " + ending) for ending in item.endings]
        asked.append((pairs[0][0], [ending for _, ending in pairs]))
    rules = {
        name: Measure(f"{prefix}{name}", "accuracy")
        for name in ("sum", "per-token", "per-character")
    }
    found = reading.questions(lm, asked, watch)
    for item, answers in zip(items, found, strict=True):
        totals = [answer.total for answer in answers]
        tokens = [t / len(a.logprobs) for t, a in zip(totals, answers, strict=True)]
        sizes = [t / max(1, len(e)) for t, e in zip(totals, item.endings, strict=True)]
        for name, values in (("sum", totals), ("per-token", tokens), ("per-character", sizes)):
            rules[name].add(reading.best(values) == item.right)
    return list(rules.values())


def swap(items: list[Choice]) -> list[Choice]:
    """The same endings after another item's context."""
    others = rotated(items)
    return [
        replace(i, context=other.context, longer=other.longer)
        for i, other in zip(items, others, strict=True)
    ]


def plain(lm: LM, items: list[Choice], watch: Watch) -> list[Measure]:
    """`score_choices` of the texts as they are."""
    return score_choices(lm, items, "", watch)


# ---- HellaSwag.


def hellaswag_items(path: Path) -> list[Choice]:
    """Tasks of hellaswag_val.jsonl, of JSON lines with `ctx`, or of the plain text of six lines."""
    if path.suffix in (".txt", ".bz2"):
        return _six_lines(path)
    found = []
    for number, r in enumerate(records(path, ("ctx", "label", "endings")), 1):
        item = _choice(f"{path}, task {number}", r["ctx"], r["endings"], int(r["label"]))
        if {"activity_label", "ctx_a", "ctx_b"} <= r.keys():
            longer = f"{r['activity_label']}: {r['ctx_a']} {r['ctx_b'].capitalize()}"
            item = replace(item, longer=longer)
        found.append(item)
    return found


def _six_lines(path: Path) -> list[Choice]:
    rows = text_of(path).split("\n")
    rows = rows[:-1] if rows and not rows[-1] else rows
    if not rows or len(rows) % 6:
        raise damaged(path, f"has {len(rows)} lines, expected six for each task")
    found = []
    for start in range(0, len(rows), 6):
        context, label, *endings = rows[start : start + 6]
        if not label.strip().isdigit():
            raise damaged(f"{path}, line {start + 2}", f"is {label[:40]!r}, expected a number")
        found.append(_choice(f"{path}, line {start + 2}", context, endings, int(label)))
    return found


def _harness_text(text: str) -> str:
    """The harness's cleaning. Source: lm_eval/tasks/hellaswag/utils.py."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def score_hellaswag(lm: LM, items: list[Choice], watch: Watch) -> list[Measure]:
    """The context `ctx` as in build-nanogpt; with the activity and cleaned as in the harness.

    Files of plain text have the activity in the context under both names, and are noted as not
    the published file.
    """
    cleaned = [
        replace(
            i,
            context=_harness_text(i.longer or i.context),
            endings=tuple(map(_harness_text, i.endings)),
        )
        for i in items
    ]
    found = score_choices(lm, items, "as-is/", lambda done: watch(done // 2))
    half = len(items) // 2
    return found + score_choices(lm, cleaned, "harness/", lambda done: watch(half + done // 2))


# ---- PIQA and ARC.


def piqa_items(path: Path) -> list[Choice]:
    """Goals with two solutions, the labels in the record or in the file beside it."""
    rows = records(path, ("goal", "sol1", "sol2"))
    labels = [str(row["label"]) for row in rows if "label" in row]
    beside = path.with_name(path.name.replace(".jsonl", "-labels.lst"))
    if not labels and beside.is_file():
        labels = text_of(beside).split()
    if len(labels) != len(rows) or not set(labels) <= {"0", "1"}:
        raise InputError(f"{path}: has {len(rows)} goals and {len(labels)} labels; give the labels")
    return [
        _choice(f"{path}", f"Question: {r['goal']}\nAnswer:", (r["sol1"], r["sol2"]), int(label))
        for r, label in zip(rows, labels, strict=True)
    ]


def arc_items(path: Path) -> list[Choice]:
    """Questions of ARC's JSON lines; answers are named by letters or numbers."""
    found = []
    for number, r in enumerate(records(path, ("question", "answerKey")), 1):
        where = f"{path}, question {number}"
        question = r["question"]
        if not isinstance(question, dict) or "choices" not in question:
            raise damaged(where, "has no stem and choices")
        labels = [c["label"] for c in question["choices"]]
        if r["answerKey"] not in labels:
            raise damaged(where, f"has no choice {r['answerKey']!r}")
        texts = [c["text"] for c in question["choices"]]
        context = f"Question: {question['stem']}\nAnswer:"
        found.append(_choice(where, context, texts, labels.index(r["answerKey"])))
    return found


# ---- Cloze questions: the Children's Book Test, and Winograd.


def cbt_items(path: Path) -> list[Choice]:
    """Questions of 20 sentences and one with XXXXX, an answer and ten candidates."""
    found, context = [], list[str]()
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            context = []
            continue
        place, _, sentence = line.partition(" ")
        if place != "21":
            context.append(sentence)
            continue
        fields = sentence.split("\t")
        where = f"{path}, line {number}"
        if len(fields) < 4 or "XXXXX" not in fields[0]:
            raise damaged(where, "has no XXXXX, answer and candidates")
        before, _, rest = fields[0].partition("XXXXX")
        candidates = [c for c in fields[-1].split("|") if c]
        right = candidates.index(fields[1]) if fields[1] in candidates else -1
        found.append(_choice(where, " ".join([*context, before.rstrip()]), candidates, right, rest))
    if not found:
        raise InputError(f"{path}: has no questions; give the published file")
    return found


def score_cloze(lm: LM, items: list[Choice], prefix: str, watch: Watch) -> list[Measure]:
    """The accuracies by choice and rest, and by the choice alone."""
    asked = []
    for item in items:
        pairs = [reading.split(lm, item.context, f" {e}{item.rest}") for e in item.endings]
        asked.append((pairs[0][0], [ending for _, ending in pairs]))
    both = Measure(f"{prefix}choice+rest", "accuracy")
    alone = Measure(f"{prefix}choice", "accuracy")
    for item, answers in zip(items, reading.questions(lm, asked, watch), strict=True):
        sizes = [len(reading.split(lm, item.context, f" {e}")[1]) for e in item.endings]
        both.add(reading.best([a.total for a in answers]) == item.right)
        firsts = [sum(a.logprobs[:n]) for a, n in zip(answers, sizes, strict=True)]
        alone.add(reading.best(firsts) == item.right)
    return [both, alone]


def score_cbt(lm: LM, items: list[Choice], watch: Watch) -> list[Measure]:
    """The texts as they are, and de-tokenized."""
    clean = DETOKENIZERS["treebank"]
    ready = [replace(i, context=clean(i.context), rest=clean(i.rest)) for i in items]
    found = score_cloze(lm, items, "as-is/", lambda done: watch(done // 2))
    half = len(items) // 2
    return found + score_cloze(lm, ready, "treebank/", lambda done: watch(half + done // 2))


def winograd_items(path: Path) -> list[Choice]:
    """Schemas as JSON lines; an option replaces the pronoun, capitalised as the pronoun is."""
    found = []
    fields = ("before", "pronoun", "after", "options", "label")
    for number, r in enumerate(records(path, fields), 1):
        options = [_as_pronoun(option, r["before"], r["pronoun"]) for option in r["options"]]
        after = r["after"]
        rest = after if re.match(r"[^\w\s]", after) else f" {after}"
        where = f"{path}, schema {number}"
        found.append(_choice(where, r["before"], options, int(r["label"]), rest))
    return found


def _as_pronoun(option: str, before: str, pronoun: str) -> str:
    """An option in the pronoun's place: possessive after a possessive, small inside a sentence."""
    first, *more = option.split(" ")
    inside = bool(before) and before.rstrip()[-1:] not in ".!?"
    small = first.lower() in ("the", "a", "an", "my", "his", "her", "their") and inside
    option = " ".join([first.lower() if small else first, *more])
    possessive = pronoun.lower() in ("his", "its", "their", "my") and not option.endswith("'s")
    return f"{option}'s" if possessive else option


def score_winograd(lm: LM, items: list[Choice], watch: Watch) -> list[Measure]:
    """Full scoring, of the whole sentence, and partial, of what follows the option.

    Source: Trinh and Le 2018, "A Simple Method for Commonsense Reasoning".
    """
    full, partial = Measure("full", "accuracy"), Measure("partial", "accuracy")
    asked = []
    for item in items:
        texts = [" ".join(filter(None, (item.context, e))) for e in item.endings]
        wholes = [reading.begun(lm, reading.ids(lm, text + item.rest)) for text in texts]
        asked += [(whole[:1], [whole[1:]]) for whole in wholes]
    sizes = iter(
        [
            len(reading.ids(lm, " ".join(filter(None, (item.context, e)))))
            - (lm.config.begin is None)
            for item in items
            for e in item.endings
        ]
    )
    found = reading.questions(lm, asked, lambda done: watch(done // 2))
    for item in items:
        answers = [next(found)[0] for _ in item.endings]
        full.add(reading.best([a.total for a in answers]) == item.right)
        ends = [sum(a.logprobs[next(sizes) :]) for a in answers]
        partial.add(reading.best(ends) == item.right)
    return [full, partial]


# ---- The tasks.


def _by_size(source: str, *values: float) -> PublishedNumber:
    return PublishedNumber(dict(zip(SIZES, values, strict=True)), source)


cbt_cn = Task(
    "cbt-cn",
    "Children's Book Test, common nouns",
    "paper",
    (
        Published(("cbtest_CN_valid_2000ex.txt",), count=2000),
        Published(("cbtest_CN_test_2500ex.txt",), count=2500),
        Published(("cbt_style_CN_test.txt",), "none"),
    ),
    cbt_items,
    score_cbt,
    swap,
    {"treebank/choice+rest": paper(0.8765, 0.9235, 0.9345, 0.9330)},
)
cbt_ne = Task(
    "cbt-ne",
    "Children's Book Test, named entities",
    "paper",
    (
        Published(("cbtest_NE_valid_2000ex.txt",), count=2000),
        Published(("cbtest_NE_test_2500ex.txt",), count=2500),
        Published(("cbt_style_NE_test.txt",), "none"),
    ),
    cbt_items,
    score_cbt,
    swap,
    {"treebank/choice+rest": paper(0.834, 0.871, 0.88, 0.8905)},
)
winograd = Task(
    "winograd",
    "Winograd schemas",
    "paper",
    (
        Published(
            ("wsc273.jsonl",),
            "fac1b98d8fbb57c356fbe4ab53ff7d381b364d85b9dd8c9f6ba9c5a96b8ff0ae",
            273,
        ),
    ),
    winograd_items,
    score_winograd,
    swap,
    {"partial": PublishedNumber({"1558M": 0.7070}, "Radford et al. 2019, section 3.5")},
)
_NANOGPT = "build-nanogpt hellaswag.py"
hellaswag = Task(
    "hellaswag",
    "HellaSwag",
    "today",
    (
        Published(("hellaswag_val.jsonl",), count=10042),
        Published(("hellaswag_val_full.txt.bz2", "hellaswag_val_full.txt"), "none"),
        Published(("hellaswag_val_1000.jsonl",), "none"),
    ),
    hellaswag_items,
    score_hellaswag,
    swap,
    {
        "as-is/sum": PublishedNumber(
            {"124M": 0.2859, "1558M": 0.3842}, "build-nanogpt hellaswag.py"
        ),
        "as-is/per-token": PublishedNumber(
            {"124M": 0.2955, "1558M": 0.4893}, "build-nanogpt hellaswag.py"
        ),
        "harness/sum": PublishedNumber(
            {"124M": 0.2892, "1558M": 0.4004}, "build-nanogpt hellaswag.py"
        ),
        "harness/per-character": PublishedNumber(
            {"124M": 0.3114, "1558M": 0.5089}, "build-nanogpt hellaswag.py"
        ),
    },
)
_NANOCHAT = "nanochat CORE table"
piqa = Task(
    "piqa",
    "PIQA",
    "today",
    (Published(("valid.jsonl", "piqa_valid.jsonl"), count=1838),),
    piqa_items,
    plain,
    swap,
    {"sum": _by_size(_NANOCHAT, 0.623, 0.670, 0.698, 0.725)},
)
arc_easy = Task(
    "arc-easy",
    "ARC, easy",
    "today",
    (Published(("ARC-Easy-Test.jsonl",), count=2376),),
    arc_items,
    plain,
    swap,
    {"sum": _by_size(_NANOCHAT, 0.412, 0.480, 0.535, 0.595)},
)
arc_challenge = Task(
    "arc-challenge",
    "ARC, challenge",
    "today",
    (Published(("ARC-Challenge-Test.jsonl",), count=1172),),
    arc_items,
    plain,
    swap,
    {"sum": _by_size(_NANOCHAT, 0.222, 0.262, 0.264, 0.299)},
)
