"""The compiled step, phase by phase, beside its plain twin."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpt2lab.config import Config
from gpt2lab.engines.cpu import cpu_features, phases, threads
from gpt2lab.engines.cpu.layout import Job, head_dtype
from gpt2lab.engines.cpu.phases import Phase
from gpt2lab.engines.wanted import Wanted

from .support import tiny_params

pytestmark = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())

if not cpu_features.why_not():
    from gpt2lab.engines.cpu.engine import CpuEngine
    from gpt2lab.engines.cpu.partials import Partials
    from gpt2lab.engines.cpu.plain import PlainStep, parts, unpacked

CONFIG = Config(n_vocab=97, n_ctx=64, n_embd=40, n_head=2, n_layer=2, n_inner=144)
KINDS = [
    ("float32", "float32", 1e-5),
    ("bfloat16", "bfloat16", 1e-2),
    ("int8", "int8", 2e-2),
    ("int4", "bfloat16", 2e-2),
]


def written(engine, what, n, logits, dtype):
    """What a phase has left in the buffers of the engine."""
    b = engine._buffers
    if what == "acts":
        return unpacked(b._acts, b._scales, engine.target.product(dtype), n)
    return {"x": b.x, "wide": b._wide, "logits": logits}[what]


@pytest.mark.parametrize(("dtype", "cache_dtype", "most"), KINDS)
def test_every_phase_writes_what_its_twin_writes(monkeypatch, dtype, cache_dtype, most):
    """A step is broken off after each phase, by giving the threads so many tickets and no more."""
    params = tiny_params(CONFIG, scale=4.0)
    engine = CpuEngine(CONFIG, params, dtype, cache_dtype=cache_dtype, threads=2)
    plain = PlainStep(CONFIG, params, engine.target, dtype, cache_dtype)
    cache, run = engine.cache(), threads.Workers.run
    slots, lengths, limit = [cache.new(), cache.new()], [0, 0], [0, Phase.LOGITS]
    outs = []

    def part(self, function, job, tickets):
        words, (layer, phase) = engine._job, limit
        counts = words[Job.TICKETS : Job.TICKETS + phase + 1]
        before = layer * phases.layer_tickets(words)
        in_layer = counts[Phase.NORM_F :] if phase >= Phase.NORM_F else counts
        wanted = int(before + in_layer.sum())
        assert wanted <= tickets == phases.all_tickets(words)
        run(self, function, job, wanted)

    monkeypatch.setattr(threads.Workers, "run", part)
    for new in ([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5, 8]], [[9], [7] * 20]):  # rows beyond FEW
        rows = [(s, lengths[s] + j, t) for s in (0, 1) for j, t in enumerate(new[s])]
        ends = [len(new[0]) - 1, len(rows) - 1]
        for layer, phase, what, expected in plain.phases(rows, ends):
            limit[:] = [layer, phase]
            for slot, length in zip(slots, lengths, strict=True):
                cache.rewind(slot, length)
            outs[:] = [engine.step(cache, slots, new)]
            if engine._job[Job.TICKETS + phase]:
                count, n = expected.shape
                last = phase == Phase.NORM_F
                own = head_dtype(dtype) if last else dtype
                found = written(engine, what, n, outs[0], own)[:count, :n]
                error = np.abs(found - expected).max() / np.abs(expected).max()
                assert error < most, (layer, phase.name, error)
        lengths = [length + len(more) for length, more in zip(lengths, new, strict=True)]


@pytest.mark.parametrize(("dtype", "cache_dtype", "most"), KINDS)
@pytest.mark.parametrize("count", [2, 40])  # rows up to FEW, and beyond
def test_the_phases_of_a_scoring_step_write_what_their_twins_write(
    monkeypatch, dtype, cache_dtype, most, count
):
    config = dataclasses.replace(CONFIG, n_vocab=600)
    params = tiny_params(config, scale=4.0)
    engine = CpuEngine(config, params, dtype, cache_dtype=cache_dtype, threads=2)
    kept, describe = [], Partials.describe
    monkeypatch.setattr(Partials, "describe", lambda p, job: (kept.append(p), describe(p, job)))
    ids, cache = np.random.default_rng(0).integers(0, 600, count).tolist(), engine.cache()
    engine.score(cache, [cache.new()], [ids], [Wanted([count - 1, 0, 0], [7, 599, 8], top=3)])
    logits = engine.logits([ids])[0, [0, count - 1]]  # of the rows in their order, [R, V]
    [p] = kept
    assert np.array_equal(p._logit, logits[[0, 0, 1], [599, 8, 7]])
    assert np.abs(p._parts - parts(logits)).max() < 1e-4 * np.abs(logits).max()
    larger = logits[[0, 0, 1]] > p._logit[:, None]  # [P, V]
    assert np.array_equal(p._above[2], larger[:, 512:].sum(1))
    assert np.array_equal(p._tops[1], -np.sort(-logits[:, 256:512])[:, :3])
    assert np.array_equal(p._ids[1], 256 + np.argsort(-logits[:, 256:512])[:, :3])


def test_tickets_are_every_chunk_once():
    """What `phases.cut` writes adds up, for few and many rows, with and without packing."""
    engine = CpuEngine(CONFIG, tiny_params(CONFIG), threads=3)
    for rows, last, packs in ((1, 1, True), (4, 0, False), (60, 7, True), (252, 252, False)):
        phases.cut(engine._job, rows, last, 3, engine.target.width, packs)
        counts = engine._job[Job.TICKETS :].tolist()
        assert len(counts) == len(Phase)
        assert phases.all_tickets(engine._job) == 2 * sum(counts[:8]) + sum(counts[8:])
        assert (counts[Phase.NORM_1] == 0) == (rows <= phases.FEW)
        assert bool(counts[Phase.PACK_1]) == (packs and rows > phases.FEW)
        assert bool(counts[Phase.LOGITS]) == bool(last)
        assert counts[Phase.TARGETS] == counts[Phase.SCORES] == 0
        phases.cut(engine._job, rows, last, 3, engine.target.width, packs, 2 * last)
        counts = engine._job[Job.TICKETS :].tolist()
        assert phases.all_tickets(engine._job) == 2 * sum(counts[:8]) + sum(counts[8:])
        assert bool(counts[Phase.TARGETS]) == bool(counts[Phase.SCORES]) == bool(last)
        assert counts[Phase.LOGITS] == 0
