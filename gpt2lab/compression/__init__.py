"""Compress any bytes with a language model, and get them back to the bit.

`compress` codes the tokens of some data by the probabilities that a model gives them, `decompress`
is the inverse; bits per byte are then the size of a file that comes back. That works because the
same model on the same engine path gives the same logits, bit for bit. The file names both, and
another model or path is refused.

In the order of reading: `byte_tokens` bytes as tokens; `frequencies` logits as integers;
`range_coder` arithmetic coding; `streams` many of them side by side; `engine_path` what decides
the bits of logits; `container` the file.
"""

from __future__ import annotations

from gpt2lab.checks import whole
from gpt2lab.compression import streams as coding
from gpt2lab.compression.byte_tokens import encode_bytes
from gpt2lab.compression.container import (
    MOST_STREAMS,
    Container,
    digest_of,
    packed,
    stored,
    unpacked,
)
from gpt2lab.compression.engine_path import described_path, fingerprint
from gpt2lab.engines.fallback import settled
from gpt2lab.errors import Failure, InputError
from gpt2lab.lm import LM

__all__ = ["Container", "compress", "decompress", "needed"]

STREAM = 1024  # tokens that are worth a stream of their own
STREAMS = 32  # more streams than this are not decoded faster


def _streams(n_tokens: int, streams: int | None) -> int:
    """How many streams some tokens are cut into."""
    if streams is None:
        return max(1, min(STREAMS, n_tokens // STREAM))
    return max(1, min(whole("streams", streams, 1, MOST_STREAMS), n_tokens))


def compress(
    lm: LM,
    data: bytes,
    *,
    streams: int | None = None,
    may_store: bool = True,
    watch: coding.Watch = coding.silent,
) -> bytes:
    """Compress any bytes with a model.

    streams: into how many parts the tokens are cut, which are coded side by side: each begins
    without context, so more of them are faster and compress less; None is one for 1,024 tokens, at
    most 32. may_store: whether data that the model does not make smaller are kept as they are.
    watch: gets the number of tokens that are coded, and of all. InputError where the model has no
    tokenizer or one that cannot spell the data.
    """
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} comes without a tokenizer; compress with a model that has one")
    engine = settled(lm.engine)
    tokens = encode_bytes(lm.tokenizer, data)
    parts = coding.encode(engine, tokens, _streams(len(tokens), streams), watch) if tokens else []
    coded = Container(
        len(data),
        digest_of(data),
        parts,
        len(tokens),
        bytes.fromhex(lm.hash),
        lm.name,
        described_path(engine),
        fingerprint(engine),
    )
    found = packed(coded)
    if may_store and len(found) > len(kept := packed(stored(data))):
        return kept
    return found


def needed(data: bytes, where: str = "the data") -> Container:
    """What a compressed file says of itself; InputError for a damaged one."""
    return unpacked(data, where)


def decompress(
    lm: LM | None, data: bytes, where: str = "the data", watch: coding.Watch = coding.silent
) -> bytes:
    """The bytes that were compressed.

    lm: the model that `needed` names, on the engine path that it names; None where the data were
    stored. InputError for another model or path, and for a damaged file; Failure where the result
    is not what was compressed.
    """
    c = unpacked(data, where)
    if not c.coded:
        return _checked(c, b"".join(c.parts), where)
    if lm is None:
        raise InputError(f"{where}: the model {c.name!r} is needed to decode it; give it")
    _check_model(c, lm, where)
    if not c.n_tokens:
        return _checked(c, b"", where)
    assert lm.tokenizer is not None
    try:
        tokens = coding.decode(settled(lm.engine), c.parts, c.n_tokens, watch)
    except InputError as error:
        raise InputError(f"{where}: {error}; copy the file again") from None
    return _checked(c, lm.tokenizer.decode_bytes(t for t in tokens), where)


def _check_model(c: Container, lm: LM, where: str) -> None:
    """InputError for another model or another path than those of the file."""
    if lm.hash != c.model.hex():
        raise InputError(
            f"{where}: was compressed with the model {c.name!r}, sha256 {c.model.hex()[:12]}, and "
            f"{lm.name!r} is {lm.hash[:12]}; give that model"
        )
    if lm.tokenizer is None:
        raise InputError(f"{lm.name} comes without a tokenizer; give the model with its tokenizer")
    engine = settled(lm.engine)
    if (path := described_path(engine)) != c.path:
        raise InputError(
            f"{where}: was compressed on the path {c.path!r}, this is {path!r}; its logits differ, "
            "so decompress on that path"
        )
    if fingerprint(engine) != c.fingerprint:
        raise InputError(
            f"{where}: the path {path!r} computes other logits here than where the file was "
            "compressed; use that machine, or the same versions of this program and its libraries"
        )


def _checked(c: Container, data: bytes, where: str) -> bytes:
    if len(data) != c.n_bytes or digest_of(data) != c.digest:
        raise Failure(
            f"{where}: decoding gives other bytes than were compressed, as the logits here differ; "
            "nothing was written"
        )
    return data
