"""Text <-> tokens: GPT-2's byte-level BPE, other vocabularies in its files, and characters.

The algorithm is written out in `bpe`, to be read and watched; `Tokenizer.encode` runs it by the
library fastokens, because a corpus has billions of words. `vocabulary` reads and writes the files,
and `learn` makes a vocabulary.

Source: openai/gpt-2 `src/encoder.py` (the pattern, the merges).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np

from gpt2lab.checks import one_of
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files.atomic import write_whole
from gpt2lab.files.io import accessing, damaged, parsing
from gpt2lab.forks import cached_property
from gpt2lab.text import kept_vocabulary
from gpt2lab.text.bpe import Word, pretokenize, symbols_to_bytes, word_steps
from gpt2lab.text.encoders import CharacterEncoder, PairEncoder, split_names
from gpt2lab.text.offsets import Span, spans_of
from gpt2lab.text.packed_vocabulary import Names
from gpt2lab.text.tokenizer_config import END_OF_TEXT, KEPT, Settings, Spec, name_of, template
from gpt2lab.text.tokenizer_json import (
    Kind,
    added_ids,
    bpe_spec,
    characters_spec,
    checked_spec,
    kind_of,
    plain,
    ranks_of,
)
from gpt2lab.text.vocabulary import load_spec, texts_of

Ids = Iterable[SupportsIndex] | np.ndarray  # anything with tolist() will do, a tensor too
Allowed = Collection[str] | Literal["all"]  # which special tokens a text may spell

HANDLERS = ("replace", "strict", "ignore", "backslashreplace", "surrogateescape")  # of bytes.decode


def _surrogate_error(error: UnicodeEncodeError) -> InputError:
    code = ord(error.object[error.start])
    return InputError(
        f"text: position {error.start} holds U+{code:04X}, half of a surrogate pair, which is no "
        "character; remove it or repair the decoding it comes from"
    )


def _as_list(ids: Ids, n_vocab: int) -> list[int]:
    """Plain ints of any list of ids; NumPy arrays and tensors included.

    They are checked a part at a time: a range may be longer than any memory.
    """
    found: list[int] = []
    try:
        rest = iter(ids.tolist() if hasattr(ids, "tolist") else ids)
        while part := [index(value) for value in islice(rest, 65536)]:
            if not (min(part) >= 0 and max(part) < n_vocab):
                wrong = next(value for value in part if not 0 <= value < n_vocab)
                raise InputError(
                    f"ids: {quoted(wrong)} is outside the vocabulary; its ids run from 0 to "
                    f"{n_vocab - 1}"
                )
            found += part
    except TypeError:
        raise InputError(f"ids: expected a flat list of integers, this is {quoted(ids)}") from None
    return found


class _ByteTable(dict[int, bytes]):
    """id -> its bytes, worked out when it is first asked for: one text needs few of 50,000."""

    def __init__(self, name_of: Callable[[int], str], plain: Collection[int]) -> None:
        """name_of: gives the name of an id, "" for none. plain: ids whose name is plain text."""
        super().__init__()
        self._name_of, self._plain = name_of, plain

    def __missing__(self, token: int) -> bytes:
        name = self._name_of(token)
        self[token] = name.encode() if token in self._plain else symbols_to_bytes(name)
        return self[token]


class Tokenizer:
    """Text to ids and back. Unchanging once made, and safe to use from many threads.

    n_vocab: the highest id + 1.
    special_tokens: name -> id of the tokens that user text can only reach by `allowed_special`.
    end_token: the id of the token that ends a text, `<|endoftext|>` unless the files name another;
        None when it is no special token of the vocabulary.
    before, after: the ids that the vocabulary's template puts around a text (a begin token, say).
    settings: of tokenizer_config.json, those that no tokenizer.json holds (`KEPT`).
    notes: what the files say that contradicts each other, one sentence each.
    kind: "bpe" is GPT-2's encoder with any vocabulary, "characters" one token per character,
        "other" a byte-level BPE with another normalizer or pattern, as its tokenizer.json says,
        "library" what the tokenizers library alone reads (Unigram, WordPiece, Metaspace ...).
    """

    def __init__(
        self,
        spec: Spec,
        where: str = "tokenizer",
        settings: Settings | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """`spec` holds the contents of a tokenizer.json; `where` names it in error messages."""
        with parsing(where, "a whole tokenizer.json"):
            self._spec = checked_spec(spec, where)
            kind = kind_of(self._spec)
            self.before, self.after = template(self._spec)
        self.settings = {key: value for key, value in (settings or {}).items() if key in KEPT}
        self.notes, self._where = tuple(notes), where
        self._added, self.special_tokens = added_ids(self._spec), added_ids(self._spec, True)
        self._always = self._added.keys() - self.special_tokens.keys()
        clean = self.settings.get("clean_up_tokenization_spaces") is True
        self._encoder: CharacterEncoder | PairEncoder = (
            CharacterEncoder(self._spec)
            if kind == "characters"
            else PairEncoder(self._spec, kind, where, clean)
        )
        self.kind: Kind = self._encoder.kind
        self._library = self._encoder.library
        own: Mapping[str, int] = self._spec["model"]["vocab"]
        self._vocab = self._library.vocab if self._library else own
        ids = [len(own) - 1] if isinstance(own, Names) else self._vocab.values()
        self.n_vocab = 1 + max([*ids, *self._added.values()])
        self.end_token = self.named("eos_token") or self.special_tokens.get(END_OF_TEXT)
        around = (*self.before, *self.after)
        if not all(type(token) is int and 0 <= token < self.n_vocab for token in around):
            raise damaged(where, f"its post_processor adds ids outside 0 to {self.n_vocab - 1}")

    def named(self, role: str) -> int | None:
        """The id of the token that tokenizer_config.json gives a role, as "eos_token"; or None."""
        return self.special_tokens.get(name_of(self.settings.get(role)) or "")

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read a folder or a file, recognised by its content.

        tokenizer.json, vocab.json with merges.txt, OpenAI's encoder.json with vocab.bpe, or
        vocab.bpe alone; with what tokenizer_config.json, special_tokens_map.json and
        added_tokens.json beside them say. Raises InputError, in one line, for files that are
        missing, cut off, damaged or do not belong together.
        """
        where, path, files = str(path), Path(path), kept_vocabulary.files_of(Path(path))
        spec, settings, notes = kept_vocabulary.recall(path, files) or load_spec(path)
        made = cls(spec, where, settings, notes)
        if made.kind == "bpe":
            kept_vocabulary.remember(path, files, made._spec, settings, notes)
        return made

    @classmethod
    def from_bpe(
        cls,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        special_tokens: Mapping[str, int],
    ) -> Tokenizer:
        """GPT-2's encoder with this vocabulary, whose names are written in `byte_symbols`."""
        return cls(bpe_spec(vocab, merges, special_tokens))

    @classmethod
    def characters(cls, alphabet: Sequence[str], special_tokens: Sequence[str] = ()) -> Tokenizer:
        """One token per character: id i is `alphabet[i]`, and the special tokens come after."""
        names = [*alphabet, *special_tokens]
        for char in alphabet:
            if len(char) != 1 or 0xD800 <= ord(char) <= 0xDFFF:
                raise InputError(f"alphabet: {quoted(char)} is not one character")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"alphabet: {quoted(twice)} occurs twice; every id needs its own name")
        return cls(characters_spec(alphabet, special_tokens), "alphabet")

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, n_vocab={self.n_vocab}, end_token={self.end_token})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (plain(self._spec), self._where, self.settings, self.notes)

    @property
    def is_local(self) -> bool:
        """Whether a text cut where white space follows a word has the tokens of the whole.

        Not where a normalizer sees the beginning of a text, or a token may hold white space.
        """
        return self.kind in ("bpe", "characters") and not self._always

    # text -> ids

    def encode(
        self, text: str, allowed_special: Allowed = (), *, add_special_tokens: bool = True
    ) -> list[int]:
        """The ids of `text`. Names of special tokens in it are ordinary text unless allowed.

        allowed_special: names from `special_tokens`, or "all". add_special_tokens: put `before` and
        `after` around it, as the vocabulary's files ask for; the other methods never do. Raises
        InputError for half a surrogate pair, and for a character that the vocabulary cannot write.
        """
        ids: list[int] = self.encode_array(text, allowed_special).tolist()
        return [*self.before, *ids, *self.after] if add_special_tokens else ids

    def encode_array(self, text: str, allowed_special: Allowed = ()) -> np.ndarray:
        """The ids of a text alone without a Python object per token: [T], uint32. For corpora."""
        if not isinstance(text, str):
            raise InputError(f"text: expected str, this is {type(text).__name__}; decode it first")
        [ids] = self.encode_each([text], allowed_special)
        return ids.astype(np.uint32)  # [T], a copy that may be written to

    def encode_each(self, texts: Sequence[str], allowed_special: Allowed = ()) -> list[np.ndarray]:
        """`encode_array` of each text. For many short documents.

        The fast library takes them all in one call, on all cores.
        """
        allowed = self._allowed(allowed_special)
        try:
            return self._encoder.encode(texts, allowed)
        except UnicodeEncodeError as error:
            raise _surrogate_error(error) from None

    def count(self, text: str) -> int:
        """The number of tokens of `text`, special tokens as ordinary text."""
        return len(self.encode_array(text))

    def encode_with_offsets(
        self, text: str, allowed_special: Allowed = ()
    ) -> tuple[list[int], list[Span]]:
        """`encode`, with the span in `text` of each token; see `offsets`.

        What the vocabulary's template puts around a text has the empty span (0, 0). Kind "other"
        may rewrite the text first. A space put before it counts to the first character, as at
        Hugging Face; after other changes there are no spans: InputError.
        """
        ids = self.encode(text, allowed_special, add_special_tokens=False)
        spans = self._spans(text, ids, allowed_special)
        before, after = [(0, 0)] * len(self.before), [(0, 0)] * len(self.after)
        return [*self.before, *ids, *self.after], [*before, *spans, *after]

    def _spans(self, text: str, ids: list[int], allowed_special: Allowed) -> list[Span]:
        """The span in `text` of each of its ids."""
        if isinstance(self._encoder, PairEncoder) and self._library:
            return self._encoder.offsets(text, self._allowed(allowed_special))
        spans, decoded = self.offsets(ids), self.decode(ids)
        if text and decoded == " " + text:
            return [(max(start - 1, 0), max(end - 1, 1)) for start, end in spans]
        if decoded != text:
            raise InputError(
                f"{self._where}: this tokenizer changes the text before it cuts it, so tokens have "
                "no place in the original; use offsets(ids), which count in the decoded text"
            )
        return spans

    def _allowed(self, allowed: Allowed) -> frozenset[str]:
        if isinstance(allowed, str):
            allowed = self.special_tokens if allowed == "all" else (allowed,)
        if not isinstance(allowed, Iterable) or getattr(allowed, "ndim", 1) == 0:
            raise InputError(f"allowed_special: {quoted(allowed)} is no list of names, nor 'all'")
        names = []
        for name in allowed:
            if not isinstance(name, str) or name not in self.special_tokens:
                known = few(self.special_tokens) or "none"
                raise InputError(
                    f"allowed_special: {quoted(name)} is no special token of this vocabulary; "
                    f"known: {known}"
                )
            names.append(name)
        return frozenset(names)

    # ids -> text

    def decode(self, ids: Ids, errors: str = "replace") -> str:
        """The text of any list of ids.

        Tokens are bytes, so a list may begin or end inside a character: `errors` is what
        `bytes.decode` makes of that ("replace", "strict", "ignore", "backslashreplace"). Of kind
        "library" the library decodes, as if it were "replace".
        """
        if self._library:
            return self._library.decode(_as_list(ids, self.n_vocab))
        handler = one_of("errors", errors, HANDLERS)
        try:
            return self.decode_bytes(ids).decode("utf-8", handler)
        except UnicodeDecodeError as error:
            raise InputError(
                f"ids: byte {error.start} of the decoded bytes is not UTF-8; the ids begin or end "
                "inside a character, use errors='replace' or decode_bytes"
            ) from None

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of any list of ids, exactly. An id without an entry gives none."""
        if self._library:
            return self.decode(ids).encode()
        return b"".join(self._bytes_of_each(ids))

    def token_bytes(self, token: SupportsIndex) -> bytes:
        """The bytes of one token."""
        if type(token) is int and 0 <= token < self.n_vocab and self._library is None:
            return self._bytes[token]
        return self._bytes_of_each([token])[0]

    def pieces(self, ids: Ids) -> list[str]:
        r"""Each token on its own as text, for display; broken bytes as \xNN, line ends as is."""
        return [data.decode("utf-8", "backslashreplace") for data in self._bytes_of_each(ids)]

    def offsets(self, ids: Ids) -> list[Span]:
        """The span (start, end) of each token in `decode(ids)`, counted in characters.

        A character split over several tokens belongs to each of them: all their spans hold it
        whole, as the Hugging Face library has it. A token without bytes has an empty span.
        """
        if self._library:
            return self._library.spans(_as_list(ids, self.n_vocab))
        return spans_of(self._bytes_of_each(ids))

    def stable(self, text: str, ids: Sequence[int]) -> int:
        """How many characters of the text of ids no further token changes. Of kind "library"."""
        return len(text) if self._library is None else self._library.stable(text, ids)

    def _bytes_of_each(self, ids: Ids) -> list[bytes]:
        values = _as_list(ids, self.n_vocab)
        if self._library:
            return [self._library.token_bytes(value) for value in values]
        return [self._bytes[value] for value in values]

    @cached_property
    def _bytes(self) -> _ByteTable:
        own, added = self._vocab, {token: name for name, token in self._added.items()}
        if isinstance(own, Names):
            return _ByteTable(lambda token: added.get(token) or own.name(token), added)
        names = {token: name for name, token in own.items()} | added
        is_text = range(self.n_vocab) if self.kind == "characters" else added
        return _ByteTable(lambda token: names.get(token, ""), is_text)

    # the algorithm in the open

    def steps(self, text: str) -> list[Word]:
        """How `text` becomes tokens: per pre-token, every state of the merging (`merge_steps`).

        Written out in plain Python, slow; the ids are those of `encode`. Kinds "other" and
        "library": InputError.
        """
        if self.kind in ("other", "library"):
            raise InputError(
                f"{self._where}: its normalizer or pattern is not GPT-2's, so the written-out "
                "encoder cannot show it; encode still works"
            )
        ids = self.encode(text, add_special_tokens=False)  # the same refusals as encode
        words: list[Word] = []
        for piece, is_name in split_names(text, self._always, self.special_tokens):
            words += [self._name_word(piece)] if is_name else self._words(piece)
        if [token for word in words for token in word.ids] != ids:
            raise InputError(
                "text: it holds a character newer than Python's tables, Unicode "
                f"{unicodedata.unidata_version}, and the written-out encoder would cut it "
                "elsewhere; encode still works"
            )
        return words

    def _name_word(self, name: str) -> Word:
        token = self._added[name] if name in self._added else self._vocab[name]
        return Word(name, [[name.encode()]], [token])

    def _words(self, text: str) -> list[Word]:
        if self.kind == "characters":
            return [self._name_word(char) for char in text]
        ranks = ranks_of(self._spec)
        return [word_steps(word, self._vocab, ranks) for word in pretokenize(text)]

    # to disk

    def save(self, folder: Path | str) -> None:
        """Write the Hugging Face layout: tokenizer.json, tokenizer_config.json, and for BPE
        vocab.json and merges.txt. Each file is replaced whole; other files are left alone."""
        folder, spec = Path(folder), plain(self._spec)
        with accessing(folder, "made"):
            folder.mkdir(parents=True, exist_ok=True)
        byte_level, has_end = self.kind in ("bpe", "other"), self.end_token is not None
        texts = texts_of(spec, self.settings, byte_level=byte_level, has_end=has_end)
        for name, text in texts.items():
            write_whole(folder / name, text)


@lru_cache(maxsize=1)
def official() -> Tokenizer:
    """GPT-2's own tokenizer, 50257 tokens, bundled. The same object each time."""
    return Tokenizer.load(Path(__file__).parent.parent / "assets" / "gpt2" / "vocab.bpe")


def is_official(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is the object that `official` gives; its file is not read for that."""
    return official.cache_info().currsize > 0 and tokenizer is official()
