"""What a file may be that is not UTF-8: damaged UTF-8, or text in one of the older encodings.

Which one cannot be known from bytes alone, so several are offered, each with the words as it would
read them, the most plausible first. A reading is plausible when its characters are common ones of a
language and occur where they occur in words: a capital inside a word, a Cyrillic letter beside a
Latin one or a letter with an accent beside another speak against it. This is enough to put the
right one among the first; the person sees which one reads well.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from gpt2lab.errors import InputError
from gpt2lab.files.visible import shown

SAMPLE = 1 << 16  # bytes that are judged
_JUDGED = 2000  # characters beyond ASCII of them
_OFFERED = 4
_EXCERPT = 24  # characters of each reading that are shown

_MARKS = {  # byte order marks, longest first -> encoding
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
#: Those that are tried; of two that read alike the first is offered.
_TRIED = (
    "gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1252", "cp1251", "koi8-u", "cp866",
    "iso8859-5", "cp1250", "iso8859-2", "cp1253", "cp1254", "cp1255", "cp1256", "cp1258", "cp874",
    "mac-roman", "cp850",
)  # fmt: skip
#: What people call them, where that is another name.
_CALLED = {"big5hkscs": "big5", "cp932": "shift_jis", "cp949": "euc_kr", "koi8-u": "koi8-r"}

_CHINESE = (
    "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对"
    "可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面"
    "公同三已老从动两长"
    "這個們來國說為時會著過學對裡後麼沒於還發當無開見經頭從動兩長"
)
_KOREAN = (
    "이다는을가에의고하지로도를은한기사어리나서대자시으인그해일아니라수있게들것스전정부보구장제과만"
    "연상안와주었면했여"
)
#: The common letters of alphabets, some of which share their bytes.
_ALPHABETS = (
    "оеаинтсрвлкмдп"
    "αοιετσνηυρπκς"
    "יוהלאתרבמשנ"
    "اليمونتربةع"
    "านรกอเงมย่ลว้ิ"
    "éèàçêôûîâùëïöäüßñáíóúãõåæøœąćęłńśźżčďěňřšťůýžőűășțđğışị"
)
_COMMON = frozenset(_CHINESE + _KOREAN + _ALPHABETS)
_WIDE_SCRIPTS = ("CJK", "HANGUL", "HIRAGANA", "KATAKANA")
_SCRIPTS = (*_WIDE_SCRIPTS, "LATIN", "CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI")
_QUOTES = frozenset("’‘“”„–—…«»¿¡")
_PUNCTUATION = frozenset("，。、！？；：「」『』（）《》“”‘’…—・ー　")


def marked(head: bytes) -> str | None:
    """The encoding that a byte order mark declares; UTF-8's own is left to the decoder."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


# --- how plausible a reading is -------------------------------------------------------------------


@cache
def _script(char: str) -> str:
    """The first word of a character's name, such as LATIN or CJK; empty for one without a name."""
    return unicodedata.name(char, "").partition(" ")[0]


def _is_strange_here(script: str, before: str, after: str) -> bool:
    """Whether a letter touches one that words do not have beside it.

    Accents are among ASCII letters, and letters of other scripts are not.
    """
    letters = [char for char in (before, after) if char.isalpha()]
    return any(char.isascii() != (script == "LATIN") for char in letters)


def _weight(before: str, char: str, after: str) -> float:
    """How plausible a character beyond ASCII is between these two, from -1 to 1."""
    script = _script(char)
    if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cn", "Co"):
        return -1.0
    if char in _QUOTES or (char in _PUNCTUATION and (before > "\x7f" or after > "\x7f")):
        return 1.0
    if script not in _SCRIPTS:
        return 0.3 if char in "°§£€©®·\xa0" else 0.05
    if _is_strange_here(script, before, after):
        return 0.25 if script in _WIDE_SCRIPTS else 0.1
    if char in _COMMON or script in ("HIRAGANA", "KATAKANA"):
        return 1.0
    if char.isupper():
        return 0.05 if before.islower() else 0.3
    return 0.4


def _plausibility(text: str) -> float:
    """The mean weight of the characters beyond ASCII."""
    padded, total, count = f" {text} ", 0.0, 0
    for match in re.finditer(r"[^\x00-\x7f]", padded):
        at = match.start()
        total, count = total + _weight(*padded[at - 1 : at + 2]), count + 1
        if count == _JUDGED:
            break
    return total / max(count, 1)


class _Reading(NamedTuple):
    plausibility: float
    encoding: str
    text: str


def _decoded(data: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(encoding)("replace").decode(data)


def _readings(data: bytes, tried: Iterable[str]) -> list[_Reading]:
    """The plausible ways to read some bytes, the most plausible first, each reading once."""
    found: dict[str, _Reading] = {}
    for encoding in tried:
        text = _decoded(data[:SAMPLE], encoding)
        if "\0" not in text and text not in found:
            found[text] = _Reading(_plausibility(text), encoding, text)
    ranked = sorted(found.values(), key=lambda reading: -reading.plausibility)
    least = max(0.2, ranked[0].plausibility / 3) if ranked else 1.0
    return [reading for reading in ranked if reading.plausibility >= least][:_OFFERED]


def _excerpt(text: str) -> str:
    """The first word beyond ASCII and what follows it."""
    match = re.search(r"[^\x00-\x7f]", text)
    at = match.start() if match else 0
    start = at - len(text[max(at - 12, 0) : at].split(" ")[-1])
    return shown(" ".join(text[start : start + 2 * _EXCERPT].split())[:_EXCERPT])


def _offers(readings: list[_Reading]) -> str:
    return ", ".join(
        f"{_CALLED.get(r.encoding, r.encoding)} '{_excerpt(r.text)}'" for r in readings
    )


# --- what is said ---------------------------------------------------------------------------------

_BROKEN = re.compile("[\udc80-\udcff]+")
_SOUND = re.compile("[^\x00-\x7f\udc80-\udcff]")


def _damage(blocks: Iterator[bytes]) -> tuple[int, int, float]:
    """(places that are not UTF-8, characters beyond ASCII that are, how plausible these are)."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    broken, sound, sample = 0, 0, ""
    for block in blocks:
        text = decoder.decode(block)
        broken += len(_BROKEN.findall(text))
        sound += len(_SOUND.findall(text))
        if len(sample) < SAMPLE and not text.isascii():
            sample += text
    return broken, sound, _plausibility(_BROKEN.sub("", sample))


def not_utf8(
    name: str, where: str, nearby: bytes, blocks: Iterator[bytes], is_cut: bool
) -> InputError:
    """What to do with a file that was taken for UTF-8.

    where: the first wrong byte. nearby: what stands from its line on. blocks: the whole file.
    is_cut: it only ends inside a character.
    """
    repair = "--encoding utf-8:replace puts \ufffd there, utf-8:ignore nothing"
    if is_cut:
        return InputError(
            f"{name}: damaged UTF-8: {where}: the file ends inside a character; copy it again, or "
            f"read it as it is: {repair}"
        )
    broken, sound, plausibility = _damage(blocks)
    # other encodings make as many characters of UTF-8 by chance, but not good ones
    if sound > 8 * broken or (sound > broken and plausibility > 0.5):
        more = f" and {broken - 1} more places" if broken > 1 else ""
        return InputError(
            f"{name}: damaged UTF-8: {where}{more}; the other {sound} characters beyond ASCII are "
            f"UTF-8; mend it, or read it as it is: {repair}"
        )
    readings = _readings(nearby, (*_TRIED, *_WIDE))
    few = f", or for damaged UTF-8: {repair}" if broken < 4 and not sound else ""
    if not readings:
        return InputError(
            f"{name}: not UTF-8: {where}; no encoding reads well; convert it to UTF-8{few}"
        )
    return InputError(
        f"{name}: not UTF-8: {where}; it may be {_offers(readings)}: choose the one that reads "
        f"well by --encoding{few}"
    )


def wrong(name: str, encoding: str, where: str, nearby: bytes) -> InputError:
    """What to do with a file that is not in the encoding that was given for it."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(nearby)
        readings = [_Reading(1.0, "utf-8", _decoded(nearby, "utf-8"))]
    except UnicodeDecodeError:
        readings = [r for r in _readings(nearby, _TRIED) if r.encoding != encoding]
    offered = f"; it may be {_offers(readings)}" if readings else ""
    return InputError(
        f"{name}: not {encoding}: {where}{offered}; try another --encoding, or {encoding}:replace"
    )


def _wide_reading(data: bytes) -> list[_Reading]:
    """The best reading as UTF-16 or UTF-32; its ASCII counts too, as it makes the zero bytes."""
    found = []
    for encoding in _WIDE:
        text = _decoded(data[:SAMPLE], encoding)
        if text and "\0" not in text and "\ufffd" not in text:
            plain = [char for char in text if char.isascii()]
            known = sum(char.isprintable() or char in "\t\r\n" for char in plain)
            sure = (known + (len(text) - len(plain)) * _plausibility(text)) / len(text)
            found.append(_Reading(sure, encoding, text))
    best = max(found, key=lambda reading: reading.plausibility, default=None)
    return [best] if best and best.plausibility > 0.7 else []


def zeros(name: str, at: int, block: bytes) -> InputError:
    """What to do with a file that has zero bytes: UTF-16 and UTF-32 without a mark, or no text."""
    readings = _wide_reading(block[: len(block) // 4 * 4] or block)
    if readings:
        return InputError(
            f"{name}: a zero byte at offset {at}, as in {_offers(readings)}: give --encoding "
            f"{readings[0].encoding}"
        )
    return InputError(f"{name}: no text: a zero byte at offset {at}; give text files")
