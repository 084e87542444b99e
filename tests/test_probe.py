"""The arithmetic of a run: measured once, remembered, told, and kept when the run is resumed."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from gpt2lab.config import Config
from gpt2lab.errors import Failure

torch = pytest.importorskip("torch")

from gpt2lab.init import initialise
from gpt2lab.train import machine, probe, remembered, report
from gpt2lab.train.config import ARITHMETIC, TrainConfig
from gpt2lab.train.finetune import finetune
from gpt2lab.train.optimizer_state import new_state
from gpt2lab.train.parallel.group import ALONE
from gpt2lab.weights import Checkpoint

from .test_distributed import LIMIT, together

SHAPE = Config(n_vocab=61, n_ctx=16, n_embd=64, n_head=2, n_layer=2)
OPEN = TrainConfig(steps=2, batch_size=2, block_size=8)
SMALL = {"steps": 2, "batch_size": 2, "block_size": 8, "sample_every": 0}
STORY = "Once upon a time there was a little fox who liked to sing at night. " * 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    precision = torch.get_float32_matmul_precision()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(report, "write", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text(STORY)
    yield
    torch.set_float32_matmul_precision(precision)


def fast(monkeypatch, *words, calls=None):
    """Let the way that these words describe take half the time of all others."""

    def seconds(self, way):
        if calls is not None:
            calls.append(way)
        return 0.001 if set(words) <= {way.dtype, way.matmul, way.attention} else 0.002

    monkeypatch.setattr(probe.Slice, "seconds", seconds)
    monkeypatch.setattr(probe, "_seconds_of_loss", lambda *_: lambda loss: 0.001)
    monkeypatch.setattr(probe, "SECONDS", 0.01)
    monkeypatch.setattr(probe, "PATIENCE", 1000)  # three turns, however busy the machine is
    monkeypatch.setattr(probe, "SHARE", 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["products", "fused"])
def test_what_is_measured_fastest_is_taken(dtype, attention, monkeypatch):
    """By the processor's flags a Xeon without AMX trained in bfloat16 at 0.65 of the speed."""
    fast(monkeypatch, dtype, attention)
    chosen, why = probe.choose(SHAPE, OPEN, 2)
    assert (chosen.dtype, chosen.attention) == (dtype, attention)
    assert f"auto is {dtype}" in why and "1.0 ms" in why and "2.0 ms" in why


def test_a_product_is_measured_only_where_it_is_exact(monkeypatch):
    fast(monkeypatch, "blas")
    assert probe.choose(SHAPE, OPEN, 2)[0].matmul == "blas"
    monkeypatch.setattr(probe, "quicken_float32", lambda: False)
    fast(monkeypatch, "onednn")
    assert probe.measured(SHAPE, OPEN, 2)[0]["matmul"] == "blas"


def test_what_is_given_is_not_measured(monkeypatch):
    calls: list[probe.Arithmetic] = []
    fast(monkeypatch, "fused", calls=calls)
    given = replace(OPEN, dtype="float32", attention="products", loss="whole")
    chosen, _ = probe.choose(SHAPE, given, 2)
    assert (chosen.dtype, chosen.attention, chosen.loss) == ("float32", "products", "whole")
    assert {(way.dtype, way.attention) for way in calls} <= {("float32", "products")}


def test_dropout_and_narrow_models_choose_less(monkeypatch):
    fast(monkeypatch, "fused")
    assert probe.choose(SHAPE, replace(OPEN, dropout=0.1), 2)[0].attention == "products"
    narrow = replace(SHAPE, n_embd=8)
    monkeypatch.setattr(probe.Slice, "__init__", lambda *_: 1 / 0)
    assert probe.choose(narrow, OPEN, 2) == (probe.plain(OPEN), "")
    asked = replace(OPEN, dtype="bfloat16")
    assert probe.choose(narrow, asked, 2)[0].dtype == "bfloat16"


def test_small_gains_change_nothing(monkeypatch):
    times = {"products": 1.0, "fused": 0.98}
    monkeypatch.setattr(probe.Slice, "seconds", lambda self, way: times[way.attention])
    monkeypatch.setattr(probe, "SECONDS", 0.01)
    monkeypatch.setattr(probe, "PATIENCE", 1000)
    monkeypatch.setattr(probe, "SHARE", 0)
    found, _ = probe.measured(SHAPE, replace(OPEN, dtype="float32", matmul="blas"), 2)
    assert found["attention"] == "products"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[1]",
        b"[" * 100_000,
        b'{"chosen": 3, "why": 4}',
        b" " * (1 << 19),
        None,
    ],
)
def test_a_choice_is_remembered_and_a_damaged_one_is_made_again(damage, monkeypatch):
    calls: list[probe.Arithmetic] = []
    fast(monkeypatch, "float32", "fused", calls=calls)
    first, why = probe.choose(SHAPE, OPEN, 2)
    before = len(calls)
    again, said = probe.choose(SHAPE, OPEN, 2)
    assert again == first and len(calls) == before and said == f"{why} (remembered)"
    file = probe._file(SHAPE, OPEN, 2)
    assert file is not None
    if damage is None:
        values = json.loads(file.read_text())
        values["chosen"]["attention"] = "quick"
        damage = json.dumps(values).encode()
    file.write_bytes(damage)
    assert probe.choose(SHAPE, OPEN, 2)[0] == first and len(calls) > before
    assert json.loads(file.read_text())["chosen"]["attention"] == "fused"
    assert probe._file(SHAPE, OPEN, 3) != file


def test_without_a_place_to_remember_each_run_measures(monkeypatch):
    def none(name):
        raise Failure("no folder for caches")

    calls: list[probe.Arithmetic] = []
    fast(monkeypatch, "float32", "fused", calls=calls)
    monkeypatch.setattr(remembered, "cache_folder", none)
    first, _ = probe.choose(SHAPE, OPEN, 2)
    before = len(calls)
    assert probe.choose(SHAPE, OPEN, 2)[0] == first and len(calls) > before


def test_a_folder_that_cannot_be_written_to_changes_nothing(tmp_path, monkeypatch):
    """The choice holds for the run, and nothing is left behind."""
    fast(monkeypatch, "float32", "fused")
    (tmp_path / "place").write_text("no folder")
    monkeypatch.setattr(remembered, "cache_folder", lambda name: tmp_path / "place")
    assert probe.choose(SHAPE, OPEN, 2)[0].attention == "fused"
    assert (tmp_path / "place").read_text() == "no folder"


def test_what_is_remembered_never_overrides_a_setting(monkeypatch):
    """Not even where the file of one question holds the answer to another."""
    fast(monkeypatch, "float32", "fused")
    probe.choose(SHAPE, OPEN, 2)
    given = replace(OPEN, attention="products")
    file, other = probe._file(SHAPE, OPEN, 2), probe._file(SHAPE, given, 2)
    assert file is not None and other is not None and file != other
    other.write_bytes(file.read_bytes())
    assert probe.choose(SHAPE, given, 2)[0].attention == "products"


def test_models_verbose_lists_how_training_computes_here(run, monkeypatch):
    """The latest first, without what another processor or no gpt2lab wrote."""
    fast(monkeypatch, "float32", "fused", "blas")
    probe.choose(SHAPE, OPEN, 2)
    probe.choose(SHAPE, replace(OPEN, block_size=4), 2)
    file = probe._file(SHAPE, replace(OPEN, block_size=4), 2)
    assert file is not None
    os.utime(file, (1, 1))
    (file.parent / "broken.json").write_text("{")
    other = json.loads(file.read_text())
    other |= {"processor": "another", "shape": "another"}
    (file.parent / "other.json").write_text(json.dumps(other))
    same = file.with_name("same.json")
    same.write_bytes(file.read_bytes())
    os.utime(same, (1, 1))
    _, _, said = run("models", "--verbose")
    lines = [line for line in said.splitlines() if "training measured" in line]
    threads = torch.get_num_threads()
    assert lines == [
        f"note: training measured: 2 layers, 64 wide, 2 x {length} tokens, vocabulary 61, threads "
        f"{threads}: float32 by blas, attention fused, loss pieces"
        for length in (8, 4)
    ]
    assert "training measured" not in run("models")[2]


def test_a_machine_that_is_too_busy_keeps_the_plain_way_and_measures_again(monkeypatch):
    monkeypatch.setattr(probe, "SECONDS", 0)
    chosen, why = probe.choose(SHAPE, OPEN, 2)
    assert chosen == probe.plain(OPEN) and "too busy" in why
    file = probe._file(SHAPE, OPEN, 2)
    assert file is not None and not file.exists()


@pytest.mark.parametrize(("share", "is_busy"), [(0.9, False), (0.3, True)])
def test_where_other_programs_have_most_of_the_time_nothing_is_chosen(share, is_busy, monkeypatch):
    """Beside six times as many processes as cores, oneDNN's product was measured as the faster."""
    clock = [0.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(probe.time, "thread_time", lambda: share * clock[0])

    def seconds(way):
        clock[0] += 0.1
        return 0.1

    assert (probe.turns(seconds, ("onednn", "blas"), 1.0) == {}) == is_busy


@pytest.mark.parametrize("busy", [2, 3, 4, 5])
def test_another_programs_load_does_not_choose(busy, monkeypatch):
    """The best time of each, all of one and then all of the other, was the loads' to decide.

    Here the machine is ten times slower for all of some turns, then for a part of one.
    """
    taken: list[float] = []
    monkeypatch.setattr(probe.time, "perf_counter", lambda: sum(taken))
    monkeypatch.setattr(probe.time, "thread_time", lambda: sum(taken))

    def seconds(dtype):
        load = 10 if len(taken) % 12 < busy or len(taken) == 13 else 1
        taken.append(load * (0.002 if dtype == "bfloat16" else 0.0018))
        return taken[-1]

    times = probe.turns(seconds, ("float32", "bfloat16"), 0.2)
    assert probe.gains(times)["bfloat16"] == pytest.approx(0.9)


def test_the_measured_step_is_a_step_of_training():
    """All ways make their gradients through attention, MLP and head, weights in float32."""
    before = torch.random.get_rng_state()
    part = probe.Slice(replace(SHAPE, n_layer=3), 16, 4)
    assert part.model.head.shape == (21, 64) and part.tokens.shape == (4, 16)
    seen = []
    for parameter in part.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.isfinite().all()))
    ways = probe._ways(OPEN)
    assert all(part.seconds(way) > 0 for way in ways)
    assert len(seen) == len(ways) * len(list(part.model.parameters())) and all(seen)
    assert torch.equal(torch.random.get_rng_state(), before)  # a run is the same whatever is chosen


def test_all_ways_give_the_same_loss_and_gradients():
    """Within 1e-6 of the loss and 1e-5 of the largest gradient in float32; 5 % in bfloat16."""
    start = Checkpoint(SHAPE, initialise(SHAPE, 0), None, "new")
    tokens = torch.randint(61, (2, 8), generator=torch.Generator().manual_seed(0))
    results = []
    for way in probe._ways(OPEN):
        for loss in ("pieces", "whole"):
            settings = replace(OPEN, **vars(way), loss=loss)
            probe.use_matmul(way.matmul)
            state = new_state(start, settings, torch.device("cpu"), ALONE)
            assert state.model.h[0].attn.fused == (way.attention == "fused")
            value = state.objective(tokens, tokens, 1 / 16)
            value.backward()
            results.append((way, value.item(), [p.grad for p in state.parameters]))
    _, expected, gradients = results[0]
    for way, value, found in results:
        exact = way.dtype == "float32"
        assert value == pytest.approx(expected, rel=1e-6 if exact else 5e-2)
        for a, b in zip(found, gradients, strict=True):
            assert (a - b).abs().max() <= (1e-5 if exact else 5e-2) * b.abs().max() + 1e-7


def settings_of(folder):
    return json.loads((folder / "run.json").read_text())["settings"]


def test_a_run_tells_its_arithmetic_and_resumes_with_it(caplog, tmp_path, monkeypatch):
    """Also where the probe would now choose otherwise."""
    fast(monkeypatch, "float32", "fused", "blas")
    finetune("story.txt", out="run", **SMALL)
    (said,) = [r.getMessage() for r in caplog.records if "auto is" in r.getMessage()]
    made = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "float32 by blas, attention fused" in said and made["measured"] == [said]
    began = {"dtype": "float32", "attention": "fused", "matmul": "blas", "loss": "pieces"}
    assert began.items() <= made["settings"].items()
    finetune("story.txt", out="whole", **{**SMALL, "steps": 4})
    monkeypatch.setattr(probe, "choose", lambda *_: 1 / 0)  # is not asked again
    more = {"steps": 4, "allow_changes": True}
    finetune("story.txt", out="run", resume=True, attention="auto", **more)
    assert torch.get_float32_matmul_precision() == "highest"
    states = [
        json.loads((tmp_path / name / "step-00000004" / "state.json").read_text())
        for name in ("run", "whole")
    ]
    assert all(began.items() <= state["settings"].items() for state in states)


def test_a_product_that_rounds_here_is_replaced_with_a_warning(caplog, monkeypatch):
    """A run that began with oneDNN's product and is resumed where that rounds to bfloat16."""
    given = {"dtype": "float32", **probe.PLAIN}
    finetune("story.txt", out="run", **SMALL, **given)
    monkeypatch.setattr(probe, "_error_of_a_product", lambda: 1e-3)
    caplog.clear()
    finetune("story.txt", out="run", resume=True, steps=3, allow_changes=True)
    assert [r for r in caplog.records if "onednn rounds" in r.getMessage()]
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_older_run_goes_on_as_it_was(tmp_path, monkeypatch):
    """Runs made before the arithmetic was chosen have no entry for it."""
    given = {"dtype": "float32", **probe.PLAIN}
    finetune("story.txt", out="run", **SMALL, **given)
    for file in [*tmp_path.glob("run/step-*/state.json"), tmp_path / "run" / "run.json"]:
        values = json.loads(file.read_text())
        for name in ARITHMETIC:
            del values["settings"][name]
        file.write_text(json.dumps(values))
    for manifest in tmp_path.glob("run/step-*/manifest.json"):
        manifest.unlink()
    fast(monkeypatch, "fused")
    old = TrainConfig.from_dict(settings_of(tmp_path / "run"))
    assert old.attention == "auto" and probe.plain(old).attention == "products"
    settings, _, notes = machine.ready(old)
    assert probe.PLAIN.items() <= settings.to_dict().items() and notes == []


# ---- Several processes.


def _ready_with(group, own_product):
    """The arithmetic of a process whose own choice would be another than that of the first."""
    chosen = {"dtype": "float32", "attention": "fused", "matmul": "onednn", "loss": "whole"}
    probe.measured = lambda *_: (chosen, "measured") if group.first else 1 / 0
    probe.quicken_float32 = lambda: own_product or group.first
    torch.set_float32_matmul_precision("medium" if own_product or group.first else "highest")
    settings, _, notes = machine.ready(OPEN, SHAPE, group)
    names = ("dtype", "attention", "matmul", "loss")
    return [getattr(settings, n) for n in names], notes, torch.get_float32_matmul_precision()


@pytest.mark.parametrize("own_product", [True, False])
def test_all_processes_take_the_choice_and_the_product_of_the_first(own_product, tmp_path):
    """Where oneDNN's product rounds in one of them, all take the other."""
    said = together(2, tmp_path / "said", _ready_with, own_product, timeout=LIMIT)
    arithmetic, notes, precision = said[0]
    assert arithmetic == ["float32", "fused", "onednn", "whole"] and said[1] == said[0]
    assert notes[0].startswith("measured") and precision == ("medium" if own_product else "highest")
    assert any("onednn rounds" in note for note in notes) != own_product
