"""Text <-> tokens: GPT-2's byte-level BPE, other vocabularies in its files, and characters.

The algorithm is written out in `bpe`, to be read and watched; `Tokenizer.encode` runs it by the
library fastokens, because a corpus has billions of words. `vocabulary` reads vocabulary files, and
`learn` makes one.

Source: openai/gpt-2 `src/encoder.py` (the pattern, the merges).
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np

from gpt2lab import forks
from gpt2lab.errors import InputError, few, quoted
from gpt2lab.files.atomic import write_whole
from gpt2lab.text.bpe import Word, merge_steps, pretokenize
from gpt2lab.text.offsets import Span, spans_of
from gpt2lab.text.tokenizer_config import END_OF_TEXT, KEPT, NAMED, Settings, name_of, template
from gpt2lab.text.tokenizer_json import (
    Kind,
    Spec,
    bpe_spec,
    byte_of_symbol,
    characters_spec,
    checked_spec,
    kind_of,
    symbol_of_byte,
    symbols_to_bytes,
    without_holes,
)
from gpt2lab.text.tokenizers_library import Library
from gpt2lab.text.vocabulary import load_spec

SHORT = 300  # characters of a text that plain Python may encode,
BUDGET = 3000  # and of all such texts together, before the fast library is made

Ids = Iterable[SupportsIndex] | np.ndarray  # anything with tolist() will do, a tensor too
Allowed = Collection[str] | Literal["all"]  # which special tokens a text may spell


# --- bytes and characters --------------------------------------------------------------------


def _split_names(
    text: str, wanted: Collection[str], ignored: Collection[str] = ()
) -> Iterator[tuple[str, bool]]:
    """Cut `text` at the wanted names, leftmost and then longest first: (piece, is it a name).

    Ignored names are matched too, so that no wanted name is found inside one, but stay text.
    """
    longest_first = sorted({*wanted, *ignored}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first)) or r"(?!)"
    start = 0
    for match in re.finditer(pattern, text):
        if match[0] in wanted:
            if match.start() > start:
                yield text[start : match.start()], False
            yield match[0], True
            start = match.end()
    if start < len(text):
        yield text[start:], False


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

    def __init__(self, names: list[str], plain: Collection[int]) -> None:
        """names: by id, "" where there is none. plain: ids whose name is text, not symbols."""
        super().__init__()
        self._names, self._plain = names, plain

    def __missing__(self, token: int) -> bytes:
        name = self._names[token]
        self[token] = name.encode() if token in self._plain else symbols_to_bytes(name)
        return self[token]


# --- the tokenizer -----------------------------------------------------------------------------


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
        self._spec = checked_spec(spec, where)
        self.kind: Kind = kind_of(self._spec)
        self.settings = {key: value for key, value in (settings or {}).items() if key in KEPT}
        self.notes = tuple(notes)
        self.before, self.after = template(self._spec, where)
        added = self._spec["added_tokens"]
        self._added: dict[str, int] = {t["content"]: t["id"] for t in added}
        self.special_tokens: dict[str, int] = {t["content"]: t["id"] for t in added if t["special"]}
        self._always = frozenset(self._added) - frozenset(self.special_tokens)
        self._where = where
        self._lock = threading.Lock()
        self._engines: dict[frozenset[str] | None, Any] = {}
        self._tables: dict[str, Any] = {}
        self._budget = BUDGET
        self._library: Library | None = None
        if self.kind in ("other", "library"):
            self._try_engines()
        self._vocab: dict[str, int] = (
            self._library.vocab if self._library else self._spec["model"]["vocab"]
        )
        self.n_vocab = 1 + max([*self._vocab.values(), *self._added.values()])
        self.end_token = self.named("eos_token") or self.special_tokens.get(END_OF_TEXT)
        outside = [token for token in (*self.before, *self.after) if token >= self.n_vocab]
        if outside:
            raise InputError(
                f"{where}: its post_processor adds the id {outside[0]}, its ids end at "
                f"{self.n_vocab - 1}; the file is damaged"
            )

    def _try_engines(self) -> None:
        """Whether the fast encoder, or else the tokenizers library, takes it shows now."""
        if self.kind == "other":
            try:
                self._engine(None)
                return
            except InputError:
                self.kind = "library"
        self._library = self._engine(None)

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
        spec, settings, notes = load_spec(Path(path))
        return cls(spec, str(path), settings, notes)

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
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"alphabet: {quoted(twice)} occurs twice; every id needs its own name")
        return cls(characters_spec(alphabet, special_tokens), "alphabet")

    def __repr__(self) -> str:
        return f"Tokenizer({self.kind}, n_vocab={self.n_vocab}, end_token={self.end_token})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._spec, self._where, self.settings, self.notes)

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
        allowed = self._allowed(allowed_special)
        if not isinstance(text, str):
            raise InputError(f"text: expected str, this is {type(text).__name__}; decode it first")
        try:
            if self.kind == "characters":
                return self._encode_characters(text, allowed)
            return self._encode_bpe(text, allowed)
        except UnicodeEncodeError as error:
            raise _surrogate_error(error) from None

    def encode_each(self, texts: Sequence[str], allowed_special: Allowed = ()) -> list[np.ndarray]:
        """`encode_array` of each text. For many short documents.

        The fast library takes them all in one call, on all cores.
        """
        if self.kind == "characters":
            return [self.encode_array(text, allowed_special) for text in texts]
        for text in texts:
            self._check_bytes(text)
        try:
            ids, ends = self._encode_flat(texts, self._allowed(allowed_special))
        except UnicodeEncodeError as error:
            raise _surrogate_error(error) from None
        return np.split(np.frombuffer(ids, "<u4"), np.frombuffer(ends, "<u8")[1:-1])

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
        if self._library:
            allowed = self._allowed(allowed_special)
            found: list[Span] = self._engine_for(allowed).offsets(text, not allowed)
            return found
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

    def _encode_bpe(self, text: str, allowed: frozenset[str]) -> np.ndarray:
        self._check_bytes(text)
        if self._is_for_python(text):
            self._budget -= len(text)
            return np.array(self._encode_short(text), np.uint32)  # [T]
        ids, _ = self._encode_flat([text], allowed)
        return np.frombuffer(ids, "<u4").astype(np.uint32)  # [T], a copy that may be written to

    def _encode_flat(self, texts: Sequence[str], allowed: frozenset[str]) -> tuple[bytes, bytes]:
        """The ids of all texts, and where each begins, as raw memory; lists halve the speed."""
        with forks.whole():  # the library has locks of its own
            engine = self._engine_for(allowed)
            found: tuple[bytes, bytes] = engine.encode_batch_flat(
                texts, split_special_tokens=not allowed
            )
        return found

    def _engine_for(self, allowed: frozenset[str]) -> Any:
        every = len(allowed) == len(self.special_tokens)
        return self._engine(None if every or not allowed else allowed)

    def _is_for_python(self, text: str) -> bool:
        """Whether the written-out encoder serves: to make the fast library takes 0.2 seconds.

        In ASCII the two cannot differ; names of added tokens need the library's rules.
        """
        if self._engines or self.kind != "bpe" or len(text) > min(SHORT, self._budget):
            return False
        return text.isascii() and not any(name in text for name in self._added)

    def _encode_short(self, text: str) -> list[int]:
        ranks, symbols = self._table("symbol ranks", self._symbol_ranks), symbol_of_byte()
        words = ["".join(symbols[ord(char)] for char in word) for word in pretokenize(text)]
        return [self._vocab[piece] for word in words for piece in merge_steps(word, ranks)[-1]]

    def _symbol_ranks(self) -> dict[tuple[str, str], int]:
        merges = self._spec["model"]["merges"]
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}

    def _engine(self, allowed: frozenset[str] | None) -> Any:
        """The fast library with this vocabulary, made once; a proper subset of the special tokens
        needs one of its own, because the library allows all of them or none."""
        with forks.whole(), self._lock:
            if allowed not in self._engines:
                self._engines[allowed] = self._make_engine(allowed)
            return self._engines[allowed]

    def _make_engine(self, allowed: frozenset[str] | None) -> Any:
        kept = self._spec["added_tokens"]
        if allowed is not None:
            kept = [t for t in kept if not t["special"] or t["content"] in allowed]
        spec = {**self._spec, "added_tokens": kept}
        if self.kind == "library":
            clean = self.settings.get("clean_up_tokenization_spaces") is True
            return Library(spec, self._where, clean)
        import fastokens

        spec["model"] = {**spec["model"], "vocab": without_holes(spec["model"]["vocab"])}
        try:
            return fastokens.Tokenizer.from_json_str(json.dumps(spec))
        except ValueError as error:
            raise InputError(
                f"{self._where}: the fast encoder cannot take it: {str(error).splitlines()[0]}; "
                "encode with the tokenizers library and pass the ids"
            ) from None

    def _check_bytes(self, text: str) -> None:
        """A vocabulary without all 256 byte symbols cannot write every text: drop nothing."""
        missing = self._table("missing", self._missing_bytes)
        if not missing:
            return
        for position, char in enumerate(text):
            for byte in char.encode():
                if byte in missing:
                    raise InputError(
                        f"text: {quoted(char)} at position {position} needs the byte "
                        f"0x{byte:02X}, which "
                        "this vocabulary does not have; learn one with all 256 bytes"
                    )

    def _missing_bytes(self) -> frozenset[int]:
        if self.kind == "library" or self._spec["model"].get("unk_token"):
            return frozenset()  # what a vocabulary of another kind does not know is its own affair
        symbols = byte_of_symbol().items()
        return frozenset(byte for symbol, byte in symbols if symbol not in self._vocab)

    def _encode_characters(self, text: str, allowed: frozenset[str]) -> np.ndarray:
        text.encode("utf-32-le")  # so that a surrogate's position counts in the whole text
        parts, start = [np.empty(0, np.uint32)], 0
        for piece, is_name in _split_names(text, allowed | self._always, self.special_tokens):
            ids = [self._added[piece]] if is_name else self._character_ids(piece, start)
            parts.append(np.asarray(ids, np.uint32))
            start += len(piece)
        return np.concatenate(parts)  # [T]

    def _character_ids(self, text: str, start: int) -> np.ndarray:
        table = self._table("characters", self._character_table)
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids: np.ndarray = table[np.minimum(codes, len(table) - 1)]
        if (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise InputError(
                f"text: {text[at]!r} (U+{ord(text[at]):04X}) at position {start + at} is not among "
                f"the {len(self._vocab)} characters of this vocabulary; remove or replace it"
            )
        return ids

    def _character_table(self) -> np.ndarray:
        """Code point -> id, -1 where there is none; the last entry stands for all above."""
        known = {ord(c): token for c, token in self._vocab.items() if c not in self._added}
        table = np.full(max(known, default=-1) + 2, -1, np.int64)
        table[list(known)] = list(known.values())
        return table

    # ids -> text

    def decode(self, ids: Ids, errors: str = "replace") -> str:
        """The text of any list of ids.

        Tokens are bytes, so a list may begin or end inside a character: `errors` is what
        `bytes.decode` makes of that ("replace", "strict", "ignore", "backslashreplace"). Of kind
        "library" the library decodes, as if it were "replace".
        """
        if self._library:
            return self._library.decode(_as_list(ids, self.n_vocab))
        data = self.decode_bytes(ids)
        if not isinstance(errors, str):
            raise InputError(f"errors: {quoted(errors)} is no text; leave it out for 'replace'")
        try:
            return data.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise InputError(
                f"ids: byte {error.start} of the decoded bytes is not UTF-8; the ids begin or end "
                "inside a character, use errors='replace' or decode_bytes"
            ) from None
        except (LookupError, ValueError, TypeError):  # a handler for encoding, a NUL in its name
            raise InputError(
                f"errors: {quoted(errors)} is unknown; known: replace, strict, ignore, "
                "backslashreplace"
            ) from None

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of any list of ids, exactly. An id without an entry gives none."""
        if self._library:
            return self.decode(ids).encode()
        return b"".join(self._bytes_of_each(ids))

    def token_bytes(self, token: SupportsIndex) -> bytes:
        """The bytes of one token."""
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
        table = self._table("bytes", self._byte_table)
        return [table[value] for value in values]

    def _byte_table(self) -> _ByteTable:
        names = [""] * self.n_vocab
        for name, token in {**self._vocab, **self._added}.items():
            names[token] = name
        characters = self.kind == "characters"
        return _ByteTable(names, range(self.n_vocab) if characters else {*self._added.values()})

    def _table(self, name: str, make: Any) -> Any:
        """A table that only some uses need, made at its first use."""
        if name not in self._tables:
            self._tables[name] = make()
        return self._tables[name]

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
        for piece, is_name in _split_names(text, self._always, self.special_tokens):
            words += [self._added_word(piece)] if is_name else self._words(piece)
        if [token for word in words for token in word.ids] != ids:
            raise InputError(
                "text: it holds a character newer than Python's tables, Unicode "
                f"{unicodedata.unidata_version}, and the written-out encoder would cut it "
                "elsewhere; encode still works"
            )
        return words

    def _added_word(self, name: str) -> Word:
        return Word(name, [[name.encode()]], [self._added[name]])

    def _words(self, text: str) -> list[Word]:
        if self.kind == "characters":
            return [Word(char, [[char.encode()]], [self._vocab[char]]) for char in text]
        return [self._word(word) for word in pretokenize(text)]

    def _word(self, word: str) -> Word:
        ranks, ids = self._table("ranks", self._rank_table), self._table("ids", self._id_table)
        states = merge_steps(word.encode(), ranks)
        return Word(word, states, [ids[piece] for piece in states[-1]])

    def _rank_table(self) -> dict[tuple[bytes, bytes], int]:
        merges = self._spec["model"]["merges"]
        return {
            (symbols_to_bytes(left), symbols_to_bytes(right)): rank
            for rank, (left, right) in enumerate(merges)
        }

    def _id_table(self) -> dict[bytes, int]:
        return {
            symbols_to_bytes(name): token
            for name, token in self._vocab.items()
            if name not in self._added
        }

    # to disk

    def save(self, folder: Path | str) -> None:
        """Write the Hugging Face layout: tokenizer.json, tokenizer_config.json, and for BPE
        vocab.json and merges.txt. Each file is replaced whole; other files are left alone."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
        for name, value in self._files().items():
            write_whole(folder / name, json.dumps(value, ensure_ascii=False) + "\n")
        if self.kind in ("bpe", "other"):
            lines = [f"{left} {right}" for left, right in self._spec["model"]["merges"]]
            write_whole(folder / "merges.txt", "\n".join(["#version: 0.2", *lines]) + "\n")

    def _files(self) -> dict[str, Any]:
        """The JSON files of the layout; the older ones say the same for readers that want them."""
        files = {"tokenizer.json": self._spec, "tokenizer_config.json": self._config()}
        if self.kind not in ("bpe", "other"):
            return files
        files["vocab.json"] = {**self._vocab, **self.special_tokens}
        named = {key: self.settings[key] for key in NAMED if key in self.settings}
        known = {END_OF_TEXT, *map(name_of, named.values())}
        others = [name for name in self.special_tokens if name not in known]
        more = {"additional_special_tokens": others} if others else {}
        if named or more:
            files["special_tokens_map.json"] = {**named, **more}
        beyond = {name: self._added[name] for name in self._always if name not in self._vocab}
        if beyond:
            files["added_tokens.json"] = beyond
        return files

    def _config(self) -> dict[str, Any]:
        """What transformers needs to read tokenizer.json and change nothing about it."""
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        if self.end_token is not None and "eos_token" not in self.settings:
            config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        return {**config, **self.settings}


@lru_cache(maxsize=1)
def official() -> Tokenizer:
    """GPT-2's own tokenizer, 50257 tokens, bundled. The same object each time."""
    return Tokenizer.load(Path(__file__).parent.parent / "assets" / "gpt2" / "vocab.bpe")
