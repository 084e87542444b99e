"""Learn a vocabulary from files: byte-level BPE, or the characters that occur.

Here it is decided which text is read, and what was learned becomes a `Tokenizer` with ids in the
official order. Counting words and choosing merges is done by the tokenizers library (the extra
"learn").

Files are read in chunks whose ends fall between two pre-tokens, so that the words counted are
those of the whole text, and the memory needed does not grow with the files.
"""

from __future__ import annotations

import codecs
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from gpt2lab.checks import whole
from gpt2lab.errors import InputError, MissingExtraError
from gpt2lab.files.io import accessing, check_regular
from gpt2lab.text.bpe import byte_symbols, char_class
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.text.tokenizer_config import END_OF_TEXT

CHUNK = 1 << 16  # bytes; the library takes 256 chunks at a time, which makes 16 MiB

MOST = 1 << 20  # tokens; the library sets memory aside for all of them and aborts when it cannot

Paths = Sequence[Path | str] | Path | str


def _is_cut(text: str, at: int) -> bool:
    """Whether two pre-tokens always meet at `at`, whatever comes before and after.

    A word never takes the white space that follows it, and never ends in another class; only an
    apostrophe may go either way ('s).
    """
    left, right = char_class(text[at - 1]), char_class(text[at])
    return left != " " and left != right and text[at - 1] != "'"


def last_cut(text: str) -> int:
    """The last place where `text` may be cut; its end when it is one run of one class."""
    at = len(text) - 1
    while at > 0 and not _is_cut(text, at):
        at -= 1
    return at if at > 0 else len(text)


def _first_cut(text: str) -> int:
    """The first place where `text` may be cut; its end when there is none."""
    return next((at for at in range(1, len(text)) if _is_cut(text, at)), len(text))


def _decode(path: Path, data: bytes, offset: int, final: bool) -> tuple[str, int]:
    """The whole characters of `data` and the number of bytes they take."""
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {offset + error.start} is not UTF-8; convert the file to UTF-8 first"
        ) from None


def _whole_file(path: Path) -> Iterator[str]:
    """All of a file in chunks; a chunk only grows past CHUNK by what the last cut left over."""
    rest, tail, offset = b"", "", 0
    with accessing(path), path.open("rb") as file:
        while block := file.read(CHUNK):
            data = rest + block
            text, used = _decode(path, data, offset, final=False)
            rest, offset = data[used:], offset + used
            text = tail + text
            cut = last_cut(text) if text else 0
            yield text[:cut]
            tail = text[cut:]
    _decode(path, rest, offset, final=True)  # a file must not end inside a character
    yield tail


def _sample(path: Path, start: int, size: int) -> str:
    """About `size` bytes from `start`, with the cut words at both ends left out."""
    with accessing(path), path.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    skip = 0
    while start and skip < min(3, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1  # the rest of a character that begins before `start`
    text, _ = _decode(path, data[skip:], start + skip, final=False)
    text = text[_first_cut(text) if start else 0 :]
    return text[: last_cut(text)] if text else ""


def chunks(paths: Sequence[Path], max_bytes: int) -> Iterator[str]:
    """The text of the files, whole up to `max_bytes`, beyond that chunks at even distances."""
    sizes = [path.stat().st_size for path in paths]
    total = sum(sizes)
    if total <= max_bytes:
        for path in paths:
            yield from _whole_file(path)
        return
    size = min(CHUNK, max_bytes)
    ends = list(accumulate(sizes))
    for number in range(max_bytes // size):
        position = number * total // (max_bytes // size)
        which = bisect_right(ends, position)
        yield _sample(paths[which], position - (ends[which] - sizes[which]), size)


def _checked_paths(paths: Paths) -> list[Path]:
    files = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    size = 0
    for path in files:
        with accessing(path):
            size += check_regular(path)
            path.open("rb").close()
    if not size:
        named = ", ".join(map(str, files)) or "no files given"
        raise InputError(f"{named}: empty; there is nothing to learn from, name a text file")
    return files


def _learn_merges(texts: Iterator[str], n_vocab: int, min_frequency: int) -> list[tuple[str, str]]:
    """The merges, most frequent first, as the tokenizers library counts them."""
    try:
        from tokenizers import Tokenizer as Trainee
        from tokenizers import models, pre_tokenizers, trainers
    except ImportError:
        raise MissingExtraError("learning a vocabulary", "tokenizers", "learn") from None
    trainee = Trainee(models.BPE())
    trainee.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        min_frequency=min_frequency,
        initial_alphabet=byte_symbols(),
        special_tokens=[],
        show_progress=False,
    )
    trainee.train_from_iterator(texts, trainer)
    merges: list[Any] = json.loads(trainee.to_str())["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]


def learn(
    paths: Paths,
    n_vocab: int,
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    max_bytes: int = 1 << 27,
    min_frequency: int = 2,
) -> Tokenizer:
    """A byte-level BPE of `n_vocab` tokens from text files, with GPT-2's pattern.

    Ids are in the official order: 256 bytes, the merges as learned, the special tokens last. When
    the text has fewer pairs that occur `min_frequency` times, the tokenizer is smaller than asked:
    look at its `n_vocab`. The same files always give the same vocabulary.

    Memory does not grow with the files: beyond `max_bytes` in all, chunks at even distances are
    read, the same ones each time, and the bytes between are not looked at. What grows is the list
    of different words, which is why `max_bytes` bounds it. A run of one kind of character longer
    than 64 KiB without a space is cut.

    Raises InputError for no files, empty files, text that is not UTF-8 (file and byte), an n_vocab
    below 256 and the special tokens or above 2**20; MissingExtraError without the library.
    """
    texts = chunks(_checked_paths(paths), whole("max_bytes", max_bytes, 1))
    return learn_from(texts, n_vocab, special_tokens, min_frequency)


def learn_from(
    texts: Iterator[str],
    n_vocab: int,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 2,
) -> Tokenizer:
    """`learn` from texts that come one by one: all of them count, and none joins the next."""
    special_tokens = list(dict.fromkeys(special_tokens))
    least = 256 + len(special_tokens)  # the bytes, and no merges
    whole("n_vocab (bytes, special tokens and merges)", n_vocab, least, MOST)
    whole("min_frequency", min_frequency, 1)
    merges = _learn_merges(texts, n_vocab - len(special_tokens), min_frequency)
    vocab = {symbol: token for token, symbol in enumerate(byte_symbols())}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    specials = {name: len(vocab) + n for n, name in enumerate(special_tokens)}
    return Tokenizer.from_bpe(vocab, merges, specials)


def learn_characters(paths: Paths, *, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """One token for each character that occurs, in the order of their code points (as nanoGPT).

    Special tokens come after. Every byte is read, in constant memory; errors as `learn`.
    """
    alphabet: set[str] = set()
    for path in _checked_paths(paths):
        for text in _whole_file(path):
            alphabet.update(text)
    return Tokenizer.characters(sorted(alphabet), special_tokens)
