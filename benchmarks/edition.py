"""What one model of simple stories is worth beside another: `python -m benchmarks.edition`.

    python -m benchmarks.edition fable out/fable/run        # compare two models, the newer second
    python -m benchmarks.edition fable out/fable/run --blind out/blind

For each model: bits per byte of the held-out texts, as `gpt2lab score --allow-special` computes
them; and of texts that it writes at its own default settings and the same seeds, the share of words
that no training text has, the share of 8 words in a row that stand in a training text, and the
longest run of words shared with one. Then its best induction head, on repeated random tokens.

--blind FOLDER writes the first answers of both models as pairs in random order, pairs.md, for a
reader who does not know which is whose, and key.json, which tells.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpt2lab
from gpt2lab import lens
from gpt2lab.chat import Chat
from gpt2lab.lm import LM

CORPUS = Path(__file__).parents[2] / "shared" / "data" / "corpus_en"
HELD_OUT = (
    "tinystories/valid.txt", "tinystories/test.txt", "storybooks/valid.txt", "more/valid.txt",
    "books/valid.txt",
)  # fmt: skip
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
BETWEEN = "|"  # the word between two texts, which none has
RUN = 8  # words in a row that count as copied
MOST = 200  # words of a copy that are told from longer ones
SEEDS = 5
PROMPTS = {
    "stories": (
        "Once upon a time",
        "One day, a little fox",
        "Once upon a time there was a girl named Anna who had a red kite.",
        "The king said",
        "Ben and Mia went to the beach with their dad.",
        "A small boat lived in the harbour.",
        "There was once a bear who could not sleep.",
        "Tom found a strange key in the garden.",
        "In a village by the river lived an old woman",
        "The rabbit looked at the moon and said,",
        "Sam was sad because it was raining.",
        "Long ago, in a dark forest,",
        "Lily had a cat named Spot. One morning,",
        "The dragon was not like other dragons.",
        "Grandma gave Max a big box.",
        "A bird sat on the window.",
        "Two brothers wanted to build a house.",
        "The little train was late.",
        "At the zoo, Jack saw",
        "Once there was a tree that could talk.",
    ),
    "everyday sentences": (
        "The weather today is",
        "My favourite food is",
        "I went to the shop to buy",
        "In the morning I always",
        "My brother and I like to",
        "The best thing about winter is",
        "Yesterday at school we",
        "When I am hungry, I",
        "Our dog likes to",
        "On my birthday I got",
    ),
    "questions": (
        "What is your name?",
        "Where does the sun go at night?",
        "Why is the boy crying?",
        "Can you help me find my shoe?",
        "What do cows eat?",
        "Do you like to swim?",
        "How do birds fly?",
        "What did you have for breakfast?",
        "Who lives in the castle?",
        "Shall we play a game?",
    ),
}
CHATS = (
    ("Hello! What is your name?", "What do you like to do?", "Can I come with you?"),
    ("I am sad today.", "I lost my teddy bear.", "Will you help me look for it?"),
    ("Do you like apples?", "I have one apple. Do you want it?", "You are kind."),
    ("Tell me a story.", "What happened then?", "I liked it. Thank you."),
    ("Look, there is a dog!", "Is it your dog?", "Can I pet it?"),
    ("Let's go to the park.", "What should we play?", "It is getting late."),
    ("Who are you?", "Where do you live?", "Is it far?"),
    ("I made a cake for you.", "It is chocolate.", "Let's eat it."),
    ("I am scared of the dark.", "What if there is a monster?", "Good night."),
    ("What is in the box?", "Can we open it?", "Wow! It is a puppy!"),
)


# ---- Held-out texts.


def bits(lm: LM, corpus: Path) -> Iterator[tuple[str, float]]:
    """Bits per byte of each held-out text."""
    for name in HELD_OUT:
        text = (corpus / name).read_text("utf-8")
        yield f"bits per byte, {name}", lm.score(text, allowed_special="all").bits_per_byte


# ---- Written texts.


def completions(lm: LM) -> list[str]:
    """What the model writes after all prompts, with each seed."""
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    return [one.text for seed in range(SEEDS) for one in lm.complete(prompts, seed=seed)]


def conversation(lm: LM, messages: Sequence[str], seed: int) -> str:
    """A chat in which these messages are said, as a script."""
    chat = Chat(lm, settings={"seed": seed, "end_on": "paragraph"})  # as the command has it
    for message in messages:
        for _ in chat.reply(message):
            pass
    return "\n".join(f"{speaker}: {text}" for speaker, text in chat.turns)


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return WORD.findall(text.lower())


class Training:
    """The words of the training texts in their order, to look for copies in."""

    def __init__(self, corpus: Path) -> None:
        self.numbers: dict[str, int] = {}
        files = sorted(corpus.glob("*/train*.txt"))
        parts = [self._ids(words(path.read_text("utf-8"))) for path in files]
        self.ids = np.concatenate(parts)  # [N]

    def _ids(self, found: list[str]) -> Any:
        return np.array([self.numbers.setdefault(w, len(self.numbers)) for w in found], np.uint64)

    def shared(self, text: list[str], n: int) -> Any:
        """Whether each n words in a row of a text stand in a training text: [T - n + 1]."""
        own = np.array([self.numbers.get(word, 1 << 40) for word in text], np.uint64)
        if len(own) < n:
            return np.zeros(0, bool)
        wanted = _hashes(own, n)  # [T - n + 1]
        distinct = np.unique(wanted)
        hashed = _hashes(self.ids, n)  # [N - n + 1]
        place = np.searchsorted(distinct, hashed).clip(max=len(distinct) - 1)
        return np.isin(wanted, distinct[place[distinct[place] == hashed]])

    def longest(self, text: list[str]) -> int:
        """The most words in a row that stand in a training text."""
        low, high = 0, min(len(text), MOST) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.shared(text, middle).any() else (low, middle)
        return low


def _hashes(ids: Any, n: int) -> Any:
    """A number for each n ids in a row, equal for equal ones: [N - n + 1]."""
    found = np.zeros(len(ids) - n + 1, np.uint64)
    for i in range(n):
        found = found * np.uint64(0x9E3779B97F4A7C15) + ids[i : len(ids) - n + 1 + i] + np.uint64(1)
    return found


def writing(texts: Sequence[str], training: Training) -> Iterator[tuple[str, float]]:
    """Invented and copied words of written texts."""
    joined = [word for text in texts for word in (*words(text), BETWEEN)]
    invented = [word for word in joined if word not in training.numbers and word != BETWEEN]
    count = len(joined) - len(texts)
    yield "words", count
    yield "invented words, %", 100 * len(invented) / count
    yield (
        f"{RUN} words in a row that are copied, %",
        100 * training.shared(joined, RUN).sum() / count,
    )
    yield "longest copied run, words", training.longest(joined)


def figures(lm: LM, training: Training, corpus: Path) -> Iterator[tuple[str, float]]:
    """Everything that is measured, each with its name."""
    yield from writing(completions(lm), training)
    yield "best induction score", float(lens.head_scores(lm).induction.max())
    yield from bits(lm, corpus)


# ---- Pairs for a reader.


def answers(lm: LM) -> Iterator[tuple[str, str]]:
    """Kind and text of what is read blind: the first seed of each prompt, and the chats."""
    for kind, prompts in PROMPTS.items():
        for prompt, done in zip(prompts, lm.complete(list(prompts), seed=0), strict=True):
            yield kind, f"**{prompt}**{done.text}"
    for messages in CHATS:
        yield "chats", conversation(lm, messages, 0)


def blind(models: Sequence[LM], folder: Path) -> None:
    """Write pairs.md and key.json."""
    order, lines, key = random.Random(14), [], {}
    pairs = list(zip(*(answers(lm) for lm in models), strict=True))
    order.shuffle(pairs)
    for number, pair in enumerate(pairs, 1):
        turn = order.sample(range(len(models)), len(models))
        key[number] = {"AB"[i]: models[which].name for i, which in enumerate(turn)}
        lines.append(f"## {number} ({pair[0][0]})\n")
        lines += [f"### {number}{'AB'[i]}\n\n{pair[which][1]}\n" for i, which in enumerate(turn)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.md").write_text("\n".join(lines), "utf-8")
    (folder / "key.json").write_text(json.dumps(key, indent=1), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["fable"])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--blind", type=Path, metavar="FOLDER")
    parser.add_argument("--threads", type=int, help="of the engine; 1 on a busy machine")
    given = parser.parse_args()
    models = [
        gpt2lab.load(name, engine="cpu", dtype="float32", threads=given.threads)
        for name in given.models
    ]
    if given.blind:
        blind(models, given.blind)
        return
    if not given.corpus.is_dir():
        print(f"left out: {given.corpus} is missing; name the folder of the texts by --corpus")
        return
    training = Training(given.corpus)
    for lm in models:
        for name, value in figures(lm, training, given.corpus):
            print(f"{lm.name[-30:]:30} {name:45} {value:8.4f}", flush=True)


if __name__ == "__main__":
    main()
