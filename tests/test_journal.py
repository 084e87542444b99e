"""What a run writes down: the log, the event files, and the report made of them."""

from __future__ import annotations

import errno
import json
import math
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser

import google_crc32c
import numpy as np
import pytest

from gpt2lab.errors import Failure, InputError, MissingExtraError
from gpt2lab.train import report
from gpt2lab.train.log import Journal, read


def step(n: int, loss: float = 2.5, **more) -> dict:
    record = {"kind": "step", "step": n, "loss": loss, "lr": 1e-3, "grad_norm": 0.5}
    record |= {"tokens": n * 256, "seconds": n * 0.5, "tokens_per_second": 512.0, "mfu": None}
    return record | {"epoch": n / 100} | more


def filled(folder, steps: int):
    with Journal(folder) as log:
        log.write({"kind": "start", "settings": {"batch": 4}})
        for n in range(1, steps + 1):
            log.write(step(n))
            if n % 5 == 0:
                log.write({"kind": "val", "step": n, "loss": 2.0, "best": True})
    return folder / "log.jsonl"


def test_a_record_is_in_the_file_when_write_returns(tmp_path):
    with Journal(tmp_path) as log:
        for n in range(3):
            log.write(step(n))
            assert read(log.path) == [step(i) for i in range(n + 1)]


def test_numbers_that_are_not_finite_are_valid_json_and_come_back(tmp_path):
    with Journal(tmp_path) as log:
        log.write(step(1, math.nan, grad_norm=math.inf))
        log.write(step(2, np.float32("-inf"), tokens=np.int64(7)))
        log.write({"kind": "sample", "step": 2, "prompt": "NaN", "text": "Infinity"})
    for line in log.path.read_text("utf-8").splitlines():
        json.loads(line, parse_constant=pytest.fail)
    one, two, sample = read(log.path)
    assert math.isnan(one["loss"]) and one["grad_norm"] == math.inf and one["mfu"] is None
    assert two["loss"] == -math.inf and two["tokens"] == 7
    assert (sample["prompt"], sample["text"]) == ("NaN", "Infinity")


@pytest.mark.parametrize(
    "text", ["é 中 🦊", "half a pair \ud83e", "\u2028 \x85 \r\n \x00 </script>"], ids=ascii
)
def test_any_text_is_one_line_and_comes_back(tmp_path, text):
    record = {"kind": "sample", "step": 1, "prompt": "", "text": text}
    with Journal(tmp_path) as log:
        log.write(record)
        log.write(step(2))
    assert log.path.read_bytes().count(b"\n") == 2
    assert read(log.path) == [record, step(2)]


def test_a_line_cut_off_anywhere_is_passed_over_and_repaired(tmp_path):
    path = filled(tmp_path, 2)
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        cut = end < len(whole) - 1  # nothing but the line break is missing otherwise
        assert len(read(path)) == 3 - cut
        Journal(tmp_path).close()
        assert path.read_bytes() == (whole[:start] if cut else whole)
    with Journal(tmp_path) as log:
        log.write(step(3))
    assert read(path)[-1] == step(3)


def test_zeros_that_a_power_cut_left_at_the_end_are_repaired(tmp_path):
    path = filled(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 512)
    assert len(read(path)) == 3
    Journal(tmp_path).close()
    assert path.read_bytes() == whole


def test_a_resumed_log_equals_the_uninterrupted_one(tmp_path):
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    straight = filled(tmp_path / "straight", 20)
    path = filled(tmp_path / "resumed", 13)
    with Journal(path.parent, after=10) as log:
        log.write({"kind": "resume", "step": 10})
        for n in range(11, 21):
            log.write(step(n))
            if n % 5 == 0:
                log.write({"kind": "val", "step": n, "loss": 2.0, "best": True})
    assert [r for r in read(path) if r["kind"] != "resume"] == read(straight)


def test_nothing_is_lost_when_the_lines_past_a_step_cannot_be_taken_away(tmp_path, monkeypatch):
    path = filled(tmp_path, 5)
    whole = path.read_bytes()

    def refuse(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(Failure, match="free some space"):
        Journal(tmp_path, after=2)
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    log = Journal(tmp_path)
    log.write(step(1))

    class Full:
        """A file with room for ten bytes."""

        def __init__(self, file):
            self.file, self.room = file, 10

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room = 0
            return self.file.write(data[:10])

        def __getattr__(self, name):
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        patch.setattr(log, "_file", Full(log._file))
        with pytest.raises(Failure, match="No space left"):
            log.write(step(2))
    log.write(step(3))
    log.close()
    assert read(log.path) == [step(1), step(3)]


@pytest.mark.parametrize(
    "damage",
    [b"{}", b"[1]", b'{"kind": "step", "st', b"\xff", b"", b'{"kind": "step", "step": "7"}'],
    ids=repr,
)
def test_a_damaged_line_is_named(tmp_path, damage):
    path = filled(tmp_path, 4)
    lines = path.read_bytes().splitlines()
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    for act in (lambda: read(path), lambda: Journal(tmp_path, after=1)):
        with pytest.raises(InputError, match=r"log\.jsonl: line 3: ") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert path.read_bytes().splitlines() == lines


def test_a_log_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"log\.jsonl"):
        read(tmp_path / "log.jsonl")


def masked(data: bytes) -> int:
    """The checksum of TFRecord files: CRC-32C, turned and shifted."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(folder) -> list:
    """The events of all files in the order in which TensorBoard reads them."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        assert "tfevents" in path.name
        data = path.read_bytes()
        while data:
            size, check = struct.unpack("<QI", data[:12])
            assert check == masked(data[:8])
            body, (check,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
            assert check == masked(body)
            found.append(event_pb2.Event.FromString(body))
            data = data[16 + size :]
    return found


def scalars(folder) -> dict[str, dict[int, float]]:
    """What TensorBoard would show: tag -> step -> value, after its purges."""
    shown: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            for curve in shown.values():
                for n in [n for n in curve if n >= event.step]:
                    del curve[n]
        for value in event.summary.value:
            shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


def test_event_files_hold_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboardX")
    with Journal(tmp_path, tensorboard=True) as log:
        log.write({"kind": "start"})
        log.write(step(1, 3.0))
        log.write(step(2, math.nan, mfu=0.25))
        log.write({"kind": "val", "step": 2, "loss": 2.5, "best": True})
        log.write({"kind": "save", "step": 2})
    assert events(tmp_path)[0].file_version == "brain.Event:2"
    shown = scalars(tmp_path)
    assert shown["loss/train"][1] == 3.0 and math.isnan(shown["loss/train"][2])
    assert shown["loss/val"] == {2: 2.5} and shown["mfu"] == {2: 0.25}
    assert shown["learning_rate"] == {1: np.float32(1e-3), 2: np.float32(1e-3)}
    assert shown["grad_norm"] == {1: 0.5, 2: 0.5}
    assert shown["tokens_per_second"] == {1: 512, 2: 512}
    assert set(shown) == {
        "loss/train", "loss/val", "learning_rate", "grad_norm", "tokens_per_second", "mfu",
    }  # fmt: skip


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    """Files of one second have one name in tensorboardX: the second run deleted the first's."""
    pytest.importorskip("tensorboardX")
    with Journal(tmp_path, tensorboard=True) as log:
        for n in range(1, 8):
            log.write(step(n, 3.0))
    with Journal(tmp_path, after=4, tensorboard=True) as log:
        log.write(step(5, 1.0))
    assert scalars(tmp_path)["loss/train"] == {1: 3.0, 2: 3.0, 3: 3.0, 4: 3.0, 5: 1.0}


def test_without_tensorboardx_the_log_is_written_and_events_are_refused(tmp_path, monkeypatch):
    path = filled(tmp_path, 3)
    whole = path.read_bytes()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"gpt2lab\[train\]"):
        Journal(tmp_path, after=1, tensorboard=True)
    assert path.read_bytes() == whole
    with Journal(tmp_path) as log:
        log.write(step(4))
    assert len(read(path)) == 5


def long_run(steps: int) -> list[dict]:
    """A run with a spike, a loss that is no number, a skipped step and samples."""
    records: list[dict] = [{"kind": "start", "settings": {"batch": 4, "data": ["<a>.txt"]}}]
    for n in range(1, steps + 1):
        loss = 2 + 8 / n + math.sin(n) / 10
        odd = {steps // 2: 900.0, steps // 3: math.nan}
        records.append(step(n, odd.get(n, loss)))
        if n % max(1, steps // 10) == 0:
            records.append({"kind": "val", "step": n, "loss": loss + 0.1, "best": True})
            records.append({"kind": "sample", "step": n, "prompt": "Once", "text": f" text {n}"})
    records.append({"kind": "skip", "step": steps // 2, "why": "loss 900 is past 4.1", "rows": []})
    return records


class Page(HTMLParser):
    """A page's elements and its text, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "srcset", "href")]

    def handle_data(self, data):
        self.text += data


def pages(folder, records, title="a run"):
    report.write(folder, records, title)
    assert sorted(path.name for path in folder.iterdir()) == ["curve.png", "report.html"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG\r\n")
    return Page((folder / "report.html").read_text("utf-8"))


ENDS = [
    [],
    [step(1)],
    [{"kind": "start"}, {"kind": "end"}],
    [step(n, math.nan) for n in range(3)],
    [step(n, value) for n, value in enumerate([math.inf, -math.inf, None, "NaN"])],
    [step(1, 0.0), step(2, 0.0)],
    [step(1, -1.0), step(2, 1e300)],
    [{"kind": "val", "step": 3, "loss": 2.0, "best": True}],
    [{"kind": "skip", "step": 3, "why": "loss 9", "rows": [1]}],
    [{"kind": "step", "step": 1, "loss": 2.0}],
]


@pytest.mark.parametrize("records", ENDS, ids=range(len(ENDS)))
def test_a_report_is_made_of_whatever_there_is(tmp_path, records):
    pytest.importorskip("matplotlib")
    page = pages(tmp_path, records)
    assert "Figures" in page.text and "nan" not in page.text


def test_a_report_tells_the_figures_and_needs_nothing_else(tmp_path):
    pytest.importorskip("matplotlib")
    page = pages(tmp_path, long_run(300))
    text = re.sub(r"\s+", " ", page.text)
    assert "76,800" in text and "2 min 30 s" in text and "512" in text
    assert "loss 900 is past 4.1" in text and "settings.batch4" in text
    best = min((r for r in long_run(300) if r["kind"] == "val"), key=lambda r: r["loss"])
    assert f"{best['loss']:.4f} (perplexity {math.exp(best['loss']):.2f})" in text
    assert f"at step {best['step']}" in text
    assert "script" not in page.tags
    assert page.links == ["data:,"] and "svg" in page.tags


def test_a_sample_cannot_break_the_page(tmp_path):
    pytest.importorskip("matplotlib")
    evil = "</pre></script><script>x()</script><!-- \x00\x1b[31m\x9f \ud83e \ufffe \u202e & &lt;"
    records = [{"kind": "sample", "step": 1, "prompt": "<i>", "text": evil}]
    records += [{"kind": "start", "settings": {"<b>": evil}}]
    page = pages(tmp_path, records, f"<h6> $x_ {evil}")
    assert not {"script", "i", "b" if page.tags.count("b") > 1 else "h6", "h6"} & set(page.tags)
    assert "</pre></script><script>x()</script><!-- \u2400\u241b[31m" in page.text
    assert "& &lt;" in page.text and not set(page.text) & set("\x00\x1b\x9f\ufffe\u202e")


def test_many_steps_and_samples_are_thinned_out(tmp_path):
    pytest.importorskip("matplotlib")
    records = long_run(100_000)
    records += [{"kind": "sample", "step": n, "prompt": "", "text": "x"} for n in range(10_000)]
    page = pages(tmp_path, records)
    assert "24 of 10,010" in page.text and page.tags.count("pre") == 24
    assert (tmp_path / "report.html").stat().st_size < 1e6


def test_thinning_keeps_what_stands_out():
    x, y = np.arange(100_000.0), np.zeros(100_000)
    y[[123, 77_777]] = 50, -3
    at, kept = report.thinned(x, y)
    assert len(at) <= report.POINTS + 2 * report.STRETCHES and {50, -3} <= set(kept)
    assert dict(zip(at, kept, strict=True))[123] == 50 and (np.diff(at) > 0).all()


@pytest.mark.parametrize("count", [0, 1, 2, 99, 100, 1999, 2001, 50_000])
def test_smoothing_follows_a_line_and_ignores_a_spike(count):
    x = np.arange(float(count))
    y = 3 - x / 100_000
    y[count // 2 : count // 2 + (count >= 300)] = 1e6
    at, line = report.smoothed(x, y)
    assert len(at) == len(line) == min(count, report.POINTS)
    assert np.allclose(line, 3 - at / 100_000, atol=0.01)


def test_without_matplotlib_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"gpt2lab\[train\]"):
        report.write(tmp_path, [step(1)], "a run")
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pages(tmp_path, [step(1)])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(Failure, match="free some space"):
        report.write(tmp_path, [step(1), step(2)], "a run")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_neither_needs_torch_and_drawing_leaves_pyplot_alone():
    code = (
        "import sys; from pathlib import Path; from tempfile import mkdtemp;"
        "from gpt2lab.train import log, report; report.write(Path(mkdtemp()), [], 'x');"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'tensorboardX') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
