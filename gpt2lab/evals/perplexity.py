"""Perplexity of running text, in three normalisations: by token, original word and byte.

The items are blocks of the text: pages of WikiText, lines of the Penn Treebank and of 1BW. The
blocks are de-tokenized one by one and read as one text, in windows, after the token that documents
begin after; a token's score belongs to the block where it begins.

Protocol ids: text/stride/normalisation. `half` is a stride of half a window: each token has half a
window before it at least. `whole` is windows beside each other, as the numbers per token that
people publish. Words and bytes are those of the original text; `word+eos` counts one end of a line
more, as the data sets' own vocabularies do. Source of the rule: openai/gpt-2#78.

The control scores the second half of windows after the first half of another window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from gpt2lab import score
from gpt2lab.errors import InputError
from gpt2lab.evals import reading
from gpt2lab.evals.data import Published, text_of
from gpt2lab.evals.detokenizers import DETOKENIZERS
from gpt2lab.evals.measures import Measure, PublishedNumber
from gpt2lab.evals.task import Task, Watch, rotated
from gpt2lab.lm import LM

BLOCK = 2000  # characters of a block of a text without pages


@dataclass(frozen=True)
class TextBlock:
    """A part of a text. swapped: whether it is to be read in another context, for the control.

    joint: what stands between this part and the next, at the end of `text`, and is of neither.
    """

    text: str
    swapped: bool = False
    joint: str = ""

    @property
    def page(self) -> str:
        """The text without the joint."""
        return self.text.removesuffix(self.joint)

    @property
    def lines(self) -> int:
        """How many ends of lines it has."""
        return self.text.count("\n")


# ---- Loaders.


def pages(path: Path) -> list[TextBlock]:
    """The pages of WikiText: a page begins at a line " = Title = ".

    Source: the data set script of EleutherAI/wikitext_document_level.
    """
    found: list[list[str]] = [[]]
    for line in text_of(path).split("\n"):
        told = line.replace("= = =", "===").replace("= =", "==").strip()
        if told.startswith("= ") and told.endswith(" ="):
            if "\n".join(found[-1]).strip():
                found.append([])
            else:
                found[-1] = []
        found[-1].append(line)
    joined = ["\n".join(page) for page in found]
    blocks = [TextBlock(page + "\n", joint="\n") for page in joined[:-1]]
    return _checked(path, [*blocks, TextBlock(joined[-1])])


def lines(path: Path) -> list[TextBlock]:
    """The lines of a text."""
    return _checked(path, [TextBlock(line) for line in text_of(path).splitlines(keepends=True)])


def pieces(path: Path) -> list[TextBlock]:
    """Pieces of some 2,000 characters, cut at the ends of lines."""
    found, size = [""], 0
    for line in text_of(path).splitlines(keepends=True):
        if size + len(line) > BLOCK and found[-1]:
            found.append("")
            size = 0
        found[-1] += line
        size += len(line)
    return _checked(path, [TextBlock(piece) for piece in found])


def _checked(path: Path, blocks: list[TextBlock]) -> list[TextBlock]:
    if not any(block.text.strip() for block in blocks):
        raise InputError(f"{path}: has no text; give the published file")
    return blocks


# ---- Scoring.


def block_nats(
    lm: LM, texts: Sequence[str], stride: int, swapped: bool
) -> tuple[list[float], list[int]]:
    """The nats of the tokens of each block of one text, and their number.

    A token is of the block where its first byte is. The first token of all has no score where the
    model has no token that documents begin after.
    """
    assert lm.tokenizer is not None
    tokens = reading.ids(lm, "".join(texts))
    found = _scores(lm, tokens, stride, swapped)
    sizes = [len(lm.tokenizer.token_bytes(token)) for token in tokens]
    starts = np.array([0, *accumulate(sizes)][:-1])
    ends = np.array(list(accumulate(len(text.encode()) for text in texts)))
    places = np.minimum(ends.searchsorted(starts, "right"), len(texts) - 1)
    known = ~np.isnan(found)
    nats = np.bincount(places[known], -found[known], len(texts))
    return nats.tolist(), np.bincount(places[known], minlength=len(texts)).tolist()


def _scores(lm: LM, tokens: list[int], stride: int, swapped: bool) -> np.ndarray:
    """The log-probability of each token [T], NaN for those without a score."""
    text = reading.begun(lm, tokens)
    found = np.full(len(text), np.nan)
    if swapped:
        for place, values in _in_other_contexts(lm, text):
            found[place : place + len(values)] = values
    elif len(text) > 1:
        [values] = score.rolling(lm.engine, [text], stride)
        found[1:] = values
    return found[len(text) - len(tokens) :]


def _in_other_contexts(lm: LM, text: list[int]) -> list[tuple[int, list[float]]]:
    """Half windows from the second on, each scored after the half before another one."""
    half = max(1, lm.config.n_ctx // 2)
    places = range(half, len(text), half)
    if len(places) < 2:
        raise InputError("the text has fewer than three half windows, so none can be swapped")
    contexts = rotated([text[place - half : place] for place in places])
    endings = [text[place : place + half] for place in places]
    found = score.continuations(
        lm.engine, [(context, [e]) for context, e in zip(contexts, endings, strict=True)]
    )
    return [(place, one[0].logprobs) for place, one in zip(places, found, strict=True)]


@dataclass(frozen=True)
class Variant:
    """How a text is read: a name of `DETOKENIZERS`, the stride in words, what to divide by."""

    detokenizer: str
    stride: str
    units: tuple[str, ...]


def _weight(unit: str, block: TextBlock, tokens: int) -> float:
    words = len(block.text.split())
    return {
        "token": tokens,
        "word": words,
        "word+eos": words + block.lines,
        "byte": len(block.text.encode()),
        "character": len(block.text),
    }[unit]


def scorer(variants: Sequence[Variant]) -> Callable[[LM, list[TextBlock], Watch], list[Measure]]:
    """The scoring of blocks in each variant."""

    def run(lm: LM, blocks: list[TextBlock], watch: Watch) -> list[Measure]:
        measures = []
        swapped = any(block.swapped for block in blocks)
        for done, variant in enumerate(variants, 1):
            n_ctx = lm.config.n_ctx
            stride = n_ctx if variant.stride == "whole" else max(1, n_ctx // 2)
            texts = [DETOKENIZERS[variant.detokenizer](block.text) for block in blocks]
            nats, tokens = block_nats(lm, texts, stride, swapped)
            for unit in variant.units:
                metric = "bits_per_byte" if unit in ("byte", "character") else "perplexity"
                name = f"{variant.detokenizer}/stride-{variant.stride}/per-{unit}"
                measure = Measure(name, metric)
                for block, value, count in zip(blocks, nats, tokens, strict=True):
                    measure.add(value, _weight(unit, block, count))
                measures.append(measure)
            watch(len(blocks) * done // len(variants))
        return measures

    return run


def swap(blocks: list[TextBlock]) -> list[TextBlock]:
    """The same blocks, to be read in other contexts."""
    return [replace(block, swapped=True) for block in blocks]


# ---- The harness's own way.


def harness_pages(lm: LM, blocks: list[TextBlock], watch: Watch) -> list[Measure]:
    """WikiText as lm-evaluation-harness scores it: page by page, its words and bytes.

    Windows of n_ctx beside each other, but the last is moved left to be full, and only its new
    tokens count; words are the parts between white space of the original page, empty ends counted.
    Source: lm_eval/utils.py `get_rolling_token_windows`, tasks/wikitext/preprocess_wikitext.py.
    """
    word = Measure("harness/pages/word", "perplexity")
    byte = Measure("harness/pages/byte", "bits_per_byte")
    shown = [block.page for block in blocks]
    texts = [reading.ids(lm, DETOKENIZERS["wikitext-megatron"](page)) for page in shown]
    asked = [window for tokens in texts for window in harness_windows(lm, tokens)]
    found = [sum(one[0].logprobs) for one in score.continuations(lm.engine, asked)]
    at = 0
    for page, tokens in zip(shown, texts, strict=True):
        count = len(harness_windows(lm, tokens))
        nats = -sum(found[at : at + count])
        at += count
        word.add(nats, len(re.split(r"\s+", page)))
        byte.add(nats, len(page.encode()))
        watch(len(word.values))
    return [word, byte]


def harness_windows(lm: LM, tokens: list[int]) -> list[tuple[list[int], list[list[int]]]]:
    """Contexts and endings that score each token of a text once, in the harness's windows."""
    n_ctx = lm.config.n_ctx
    begin = lm.config.begin if lm.config.begin is not None else tokens[0]
    whole = [begin, *tokens]
    found, done = [], 0
    while done < len(tokens):
        count = min(n_ctx, len(tokens) - done)
        end = done + count  # of the targets, which are tokens[done:end] = whole[done + 1 : end + 1]
        start = 0 if done == 0 else end - n_ctx
        found.append((whole[start : done + 1], [tokens[done:end]]))
        done = end
    return found


def _wikitext(lm: LM, blocks: list[TextBlock], watch: Watch) -> list[Measure]:
    measures = scorer(WIKITEXT)(lm, blocks, watch)
    if any(block.swapped for block in blocks):
        return measures
    return measures + harness_pages(lm, blocks, watch)


# ---- The tasks.

WIKITEXT = (
    Variant("as-is", "whole", ("token",)),
    Variant("as-is", "half", ("token", "word+eos", "byte")),
    Variant("wikitext-megatron", "half", ("token", "word+eos", "byte")),
)
_THREAD = "huggingface/transformers#13761"
TABLE3 = "Radford et al. 2019, Table 3"
SIZES = ("124M", "355M", "774M", "1558M")


def paper(*values: float) -> PublishedNumber:
    """A row of Table 3, by size."""
    return PublishedNumber(dict(zip(SIZES, values, strict=True)), TABLE3)


_RAW = Published(
    ("wiki.test.raw",), "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
)
wikitext2 = Task(
    "wikitext2",
    "WikiText-2",
    "paper",
    (_RAW,),
    pages,
    _wikitext,
    swap,
    {
        "wikitext-megatron/stride-half/per-token": paper(29.41, 22.76, 19.93, 18.34),
        "as-is/stride-whole/per-token": PublishedNumber(
            {"124M": 29.94}, "huggingface/transformers#13761"
        ),
    },
)
wikitext103 = Task(
    "wikitext103",
    "WikiText-103",
    "paper",
    (_RAW,),  # both have one test set
    pages,
    _wikitext,
    swap,
    {
        "wikitext-megatron/stride-half/per-word+eos": paper(37.50, 26.37, 22.05, 17.48),
        "harness/pages/word": PublishedNumber(
            {"124M": 37.37, "1558M": 17.48}, "huggingface/transformers#13761; GPT-Neo README"
        ),
    },
)
ptb = Task(
    "ptb",
    "Penn Treebank",
    "paper",
    (Published(("ptb.test.txt",), count=3761),),
    lines,
    scorer(
        (
            Variant("as-is", "half", ("token", "word+eos", "byte")),
            Variant("ptb-megatron", "half", ("token", "word+eos", "byte")),
        )
    ),
    swap,
    {"ptb-megatron/stride-half/per-word+eos": paper(65.85, 47.33, 40.31, 35.76)},
)
one_billion = Task(
    "1bw",
    "One Billion Words",
    "paper",
    (Published(("news.en.heldout-00000-of-00050",), count=6206),),
    lines,
    scorer(
        (
            Variant("as-is", "half", ("token", "word+eos", "byte")),
            Variant("treebank", "half", ("token", "word+eos", "byte")),
        )
    ),
    swap,
    {"treebank/stride-half/per-word+eos": paper(75.20, 55.72, 44.575, 42.16)},
)
