"""LAMBADA: the last word of a passage, by four scorings of one reading.

    last-token      the last BPE token is the most probable one, after all before it
    word-forced     every token of the last word is, given the right ones before it
    word-greedy     greedy decoding after the passage gives that word: up to 6 tokens, to the
                    first white space, marks around it removed
    word-no-stop    the same with a first token of the 128 most probable that is no stop word,
                    up to 3 tokens

and perplexities: of the last token, and of the last word, exp of the mean over passages. The last
word is what follows the last blank. Texts: OpenAI's file as it is and with OpenAI's preparation
(plain quotation marks, a line end before the passage), or the original tokenized file. Sources:
openai/gpt-2#131; EleutherAI/lm-evaluation-harness `lambada_openai`; cybertronai/bflm for the
stop-word filter (128 tokens, 3 steps), as the paper names neither list nor numbers.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2lab.engines.wanted import Wanted
from gpt2lab.errors import InputError
from gpt2lab.evals import reading
from gpt2lab.evals.data import Published, records, text_of
from gpt2lab.evals.detokenizers import DETOKENIZERS
from gpt2lab.evals.measures import Measure, PublishedNumber
from gpt2lab.evals.perplexity import paper
from gpt2lab.evals.task import Task, Watch, rotated
from gpt2lab.lm import LM

TOGETHER = 24  # passages that are read in one step
CANDIDATES, GREEDY, FILTERED = 128, 6, 3
#: The English stop words of NLTK's corpus that a passage may end in, without its fragments.
_STOP = (
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his "
    "himself she her hers herself it its itself they them their theirs themselves what which "
    "who whom this that these those am is are was were be been being have has had having do "
    "does did doing a an the and but if or because as until while of at by for with about "
    "against between into through during before after above below to from up down in out on "
    "off over under again further then once here there when where why how all any both each "
    "few more most other some such no nor not only own same so than too very s t can will "
    "just don should now "
)
STOP_WORDS = frozenset(_STOP.split())


@dataclass(frozen=True)
class Passage:
    """A passage without its last word, and that word after its blank."""

    context: str
    word: str


def _passages(texts: Sequence[str], where: object) -> list[Passage]:
    found = []
    for number, text in enumerate(texts, 1):
        context, blank, word = text.rstrip().rpartition(" ")
        if not blank or not context.strip():
            raise InputError(f"{where}, passage {number}: has no word before the last one")
        found.append(Passage(context, word))
    return found


def openai_file(path: Path) -> list[Passage]:
    """The passages of a file of JSON lines with `text`."""
    return _passages([str(record["text"]) for record in records(path, ("text",))], path)


def original_file(path: Path) -> list[Passage]:
    """The passages of the original file: tokenized, one a line."""
    found = _passages([line for line in text_of(path).splitlines() if line.strip()], path)
    if not found:
        raise InputError(f"{path}: has no passages; give the published file")
    return found


def prepared(passage: Passage) -> Passage:
    """OpenAI's preparation: plain quotation marks, a line end before the passage."""
    plain = DETOKENIZERS["plain-quotes"]
    return Passage("\n" + plain(passage.context).strip(), plain(passage.word))


def detokenized(passage: Passage) -> Passage:
    """The original file's marks joined to their words."""
    return replace(passage, context=DETOKENIZERS["treebank"](passage.context))


# ---- One reading.


@dataclass
class _Answer:
    """What the model says about one passage. nats: of each token of the word."""

    nats: list[float]
    right: list[bool]
    greedy: str = ""
    filtered: str = ""


def _word(text: str) -> str:
    """The first word of a text, marks around it removed."""
    words = text.split()
    return words[0].strip(string.punctuation + "“”‘’") if words else ""


def _first_token(lm: LM, ids: Sequence[int]) -> int:
    """The most probable token whose text is no stop word."""
    assert lm.tokenizer is not None
    for token in ids:
        text = lm.decode([token]).strip().lower()
        if text.strip(string.punctuation) and text not in STOP_WORDS:
            return int(token)
    return int(ids[0])


def _answers(lm: LM, asked: list[tuple[list[int], list[int]]]) -> list[_Answer]:
    """Read contexts together; score the words, and decode after each in two ways."""
    engine, cache = lm.engine, lm.engine.cache()
    slots = [cache.new() for _ in asked]
    top = min(CANDIDATES, lm.config.n_vocab)
    first = engine.score(
        cache, slots, [c for c, _ in asked],
        [Wanted([len(c) - 1], [word[0]], top=top) for c, word in asked],
    )  # fmt: skip
    answers, starts = [], []
    for scores, (_, word) in zip(first, asked, strict=True):
        assert scores.logprobs is not None and scores.top_ids is not None
        ids = scores.top_ids[0].tolist()
        answers.append(_Answer([-float(scores.logprobs[0])], [ids[0] == word[0]]))
        starts.append((ids[0], _first_token(lm, ids)))
    _rest_of_words(lm, cache, slots, asked, answers)
    greedy = _decoded(lm, cache, slots, asked, [start for start, _ in starts], GREEDY)
    filtered = _decoded(lm, cache, slots, asked, [start for _, start in starts], FILTERED)
    for answer, one, other in zip(answers, greedy, filtered, strict=True):
        answer.greedy, answer.filtered = _word(one), _word(other)
    return answers


def _rest_of_words(
    lm: LM, cache: Any, slots: list[int], asked: Any, answers: list[_Answer]
) -> None:
    """Score the tokens of the words after the first; the slots stay as they are."""
    longer = [i for i, (_, word) in enumerate(asked) if len(word) > 1]
    if not longer:
        return
    words = [asked[i][1] for i in longer]
    found = lm.engine.score(
        cache, [slots[i] for i in longer], [word[:-1] for word in words],
        [Wanted(range(len(word) - 1), word[1:], top=1) for word in words],
    )  # fmt: skip
    for i, word, scores in zip(longer, words, found, strict=True):
        assert scores.logprobs is not None and scores.top_ids is not None
        answers[i].nats += [-float(value) for value in scores.logprobs]
        best = scores.top_ids[:, 0].tolist()
        answers[i].right += [a == b for a, b in zip(best, word[1:], strict=True)]
        cache.rewind(slots[i], len(asked[i][0]))


def _decoded(
    lm: LM, cache: Any, slots: list[int], asked: Any, first: list[int], count: int
) -> list[str]:
    """The text of greedy decoding after each context, from a given first token."""
    found = [[token] for token in first]
    going = list(range(len(asked)))
    for _ in range(count - 1):
        going = [i for i in going if not _complete(lm, found[i])]
        going = [i for i in going if cache.length(slots[i]) < lm.config.n_ctx]
        if not going:
            break
        logits = lm.engine.step(cache, [slots[i] for i in going], [found[i][-1:] for i in going])
        for i, token in zip(going, logits.argmax(-1), strict=True):
            found[i].append(int(token))
    for slot, (context, _) in zip(slots, asked, strict=True):
        cache.rewind(slot, len(context))
    return [lm.decode(tokens) for tokens in found]


def _complete(lm: LM, tokens: list[int]) -> bool:
    """Whether the first word of decoded tokens has ended."""
    text = lm.decode(tokens).lstrip()
    if tokens[-1] in lm.config.end_tokens:
        return True
    return len(text.split(None, 1)) > 1 or text != text.rstrip()


def scored(lm: LM, passages: list[Passage], text: str, watch: Watch) -> list[Measure]:
    """The measures of passages. text: how they were prepared, for the protocol ids."""
    names = ("last-token", "word-forced", "word-greedy", "word-no-stop")
    accuracy = {name: Measure(f"{text}/{name}", "accuracy") for name in names}
    token = Measure(f"{text}/last-token-perplexity", "perplexity")
    word = Measure(f"{text}/word-perplexity", "perplexity")
    asked = [_asked(lm, passage) for passage in passages]
    for start in range(0, len(asked), TOGETHER):
        part = slice(start, start + TOGETHER)
        for passage, answer in zip(passages[part], _answers(lm, asked[part]), strict=True):
            right = _word(passage.word)
            accuracy["last-token"].add(answer.right[-1])
            accuracy["word-forced"].add(all(answer.right))
            accuracy["word-greedy"].add(answer.greedy == right)
            accuracy["word-no-stop"].add(answer.filtered == right)
            token.add(answer.nats[-1])
            word.add(math.fsum(answer.nats))
        watch(min(len(asked), start + TOGETHER))
    return [*accuracy.values(), token, word]


def _asked(lm: LM, passage: Passage) -> tuple[list[int], list[int]]:
    """The tokens of a passage: the end of the context that fits the window, and the word."""
    context, word = reading.split(lm, passage.context, " " + passage.word)
    if not word:
        raise InputError(f"the word {passage.word!r} has no token of its own in this vocabulary")
    return reading.fitting(lm, context, max(len(word), GREEDY) + 1), word


def _swap(passages: list[Passage]) -> list[Passage]:
    contexts = rotated([passage.context for passage in passages])
    return [Passage(c, p.word) for c, p in zip(contexts, passages, strict=True)]


def _openai(lm: LM, passages: list[Passage], watch: Watch) -> list[Measure]:
    found = scored(lm, passages, "openai-file", lambda done: watch(done // 2))
    half = len(passages) // 2
    ready = [prepared(passage) for passage in passages]
    return found + scored(lm, ready, "openai-file-prepared", lambda done: watch(half + done // 2))


def _original(lm: LM, passages: list[Passage], watch: Watch) -> list[Measure]:
    found = scored(lm, passages, "original", lambda done: watch(done // 2))
    half = len(passages) // 2
    ready = [detokenized(passage) for passage in passages]
    return found + scored(lm, ready, "original-treebank", lambda done: watch(half + done // 2))


_BFLM = "cybertronai/bflm"
lambada = Task(
    "lambada",
    "LAMBADA, OpenAI's file",
    "paper",
    (
        Published(
            ("lambada_test.jsonl",),
            "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
            5153,
        ),
    ),
    openai_file,
    _openai,
    _swap,
    {
        "openai-file-prepared/last-token": paper(0.4599, 0.5548, 0.6012, 0.6324),
        "openai-file/word-forced": PublishedNumber(
            {"124M": 0.3256}, "EleutherAI/lm-evaluation-harness#2159"
        ),
        "openai-file/word-no-stop": PublishedNumber({"124M": 0.4198}, _BFLM),
        "openai-file/word-perplexity": PublishedNumber(
            {"124M": 40.06}, "EleutherAI/lm-evaluation-harness#2159"
        ),
        "openai-file-prepared/word-perplexity": paper(35.13, 15.60, 10.87, 8.63),
    },
)
lambada_original = Task(
    "lambada-original",
    "LAMBADA, original file",
    "paper",
    (Published(("lambada_test_plain_text.txt",), count=5153),),
    original_file,
    _original,
    _swap,
    {
        "original/word-greedy": PublishedNumber({"124M": 0.26}, "huggingface/transformers#491"),
        "original/word-no-stop": PublishedNumber({"124M": 0.31}, "huggingface/transformers#491"),
        "original-treebank/word-no-stop": PublishedNumber({"124M": 0.33}, _BFLM),
    },
)
