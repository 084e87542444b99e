"""After a fork: the same texts in parent and children, or a line that says what cannot be.

Each case runs in a process of its own, as a child that hangs must not hold up the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gpt2lab import forks
from gpt2lab.config import Config
from gpt2lab.engines import fallback
from gpt2lab.engines.cpu import compile_cache, cpu_features
from gpt2lab.errors import InputError
from gpt2lab.lm import LM
from gpt2lab.text.tokenizer import Tokenizer
from gpt2lab.weights import Checkpoint, checkpoint

from .support import FABLE, TINY, tiny_engine, tiny_params

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

CONFIG = Config(n_vocab=301, n_ctx=256, n_embd=192, n_head=4, n_layer=2)  # BLAS takes its threads
ENGINES = ["cpu float32", "cpu bfloat16", "cpu int8", "numpy float32", "torch float32"]


def alone(function, *arguments, timeout=120):
    """What a function of this module prints, called in a process of its own."""
    code = f"from tests.test_forks import *; {function.__name__}{arguments!r}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def needs(engine):
    if engine.startswith("cpu") and cpu_features.why_not():
        pytest.skip(cpu_features.why_not())
    if engine.startswith("torch") and find_spec("torch") is None:
        pytest.skip("torch is not installed")


def model(engine):
    name, dtype = engine.split()
    return LM(
        Checkpoint(CONFIG, tiny_params(CONFIG), None, "huggingface"), engine=name, dtype=dtype
    )


def writer(engine):
    """A function from a number to the tokens that follow a prompt of its own, and a few of them."""
    lm = model(engine)
    draw = np.random.default_rng(1)
    prompts = [draw.integers(0, CONFIG.n_vocab, 60 + 9 * i).tolist() for i in range(6)]

    def write(i):
        return lm.complete([prompts[i % 6]], max_new_tokens=12, seed=i % 6)[0].tokens

    return write, [write(i) for i in range(6)]  # used before any fork


def child(function):
    """The number of a child of fork that ends with 0 where the function gives True."""
    number = os.fork()
    if number:
        return number
    signal.alarm(60)  # a child that hangs ends by it
    os._exit(0 if function() else 1)


def ends(numbers):
    return [os.waitpid(number, 0)[1] for number in numbers]


def texts_of_parent_and_children(engine, threads):
    """Four children and the parent write different texts at once, and threads beside them."""
    write, expected = writer(engine)
    stop, wrong = threading.Event(), []

    def work(i):
        while not stop.is_set():
            wrong.extend([i] if write(i) != expected[i] else [])
            i = (i + 1) % 6

    busy = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in busy:
        thread.start()
    children = [
        child(lambda k=k: all(write(k + j) == expected[(k + j) % 6] for j in range(4)))
        for k in range(4)
    ]
    here = all(write(i) == expected[i % 6] for i in range(12))
    print(here, *ends(children))
    stop.set()
    for thread in busy:
        thread.join()
    print(not wrong)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_children_and_parent_write_different_texts_at_once(engine, threads):
    """The cpu engine's slots were shared with every child, so that texts of several processes, of
    several users of one server, were written over each other without a word. Torch waited for ever
    for threads that had stayed in the parent, NumPy where another thread was in a product."""
    needs(engine)
    found = alone(texts_of_parent_and_children, engine, threads)
    assert found == ["True", "0", "0", "0", "0", "True"]


def texts_of_a_pool(engine):
    global write
    write, expected = writer(engine)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(_written, [*range(6)] * 2, 1)
        here = [write(i) for i in range(6)]
        print(there.get(60) == expected * 2, here == expected)


def _written(i):
    return write(i)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pool_writes_different_texts(engine):
    needs(engine)
    assert alone(texts_of_a_pool, engine) == ["True", "True"]


@pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())
def test_memory_of_a_slot_belongs_to_one_process():
    engine = model("cpu float32").engine
    buffer = engine.memory.take()
    assert ends([child(lambda: buffer.fill(1) is None)]) == [0]
    assert not buffer.any()


# ---- Locks.


def slow(function, seconds=0.5):
    """The function, after a while in which a fork may happen."""

    def slowly(*given):
        time.sleep(seconds)
        return function(*given)

    return slowly


def fork_while_another_thread_is_busy(what):
    if what == "tokenizer":
        tokenizer = Tokenizer.load(FABLE)
        tokenizer._encoder._made = slow(tokenizer._encoder._made)

        def work():
            return len(tokenizer.encode("lions " * 2000)) > 1000
    else:
        lm = model("numpy float32")
        checkpoint._hash = slow(checkpoint._hash)

        def work():
            return len(lm.hash) == 64

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.1)
    print(*ends([child(work)]))
    thread.join()


@pytest.mark.parametrize("what", ["tokenizer", "hash"])
def test_no_lock_stays_held_in_a_child(what):
    """A thread was making the fast encoder, or reading the model for its hash, when another forked:
    the lock was never given back in the child."""
    assert alone(fork_while_another_thread_is_busy, what) == ["0"]


def property_while_another_thread_computes_it():
    class Owner:
        value = forks.cached_property(slow(lambda self: id(self)))

    one, other = Owner(), Owner()
    thread = threading.Thread(target=lambda: one.value)
    thread.start()
    time.sleep(0.1)
    print(*ends([child(lambda: other.value == id(other))]))
    thread.join()
    print(one.value == id(one) and Owner.value.__doc__ is None)


def test_a_property_that_is_computed_once_holds_no_lock():
    """functools' holds one for the whole class before Python 3.12: one child of several hundred
    hung at its first token, as another thread was asking for a setting when it was born."""
    assert alone(property_while_another_thread_computes_it) == ["0", "True"]


def test_the_package_uses_no_other_such_property():
    for path in (Path(forks.__file__).parent).rglob("*.py"):
        assert "import cached_property" not in path.read_text().replace(
            "from gpt2lab.forks import cached_property", ""
        ), path
        assert "functools.cached_property" not in path.read_text(), path


def test_a_fork_waits_for_other_threads_and_not_for_its_own(monkeypatch):
    inside, done = threading.Event(), []

    def work():
        with forks.whole():
            inside.set()
            time.sleep(0.3)
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    with forks.whole():  # as in a signal handler that comes during a step
        assert ends([child(lambda: bool(done))]) == [0]
    thread.join()

    def hold():
        with forks.whole():
            inside.set()
            release.wait()

    release, thread = threading.Event(), threading.Thread(target=hold)
    inside.clear()
    monkeypatch.setattr(forks, "PATIENCE", 0.2)
    thread.start()
    inside.wait()
    with forks.whole():
        assert ends([child(lambda: True)]) == [0]  # a thread that never ends does not hold it up
    release.set()
    thread.join()


# ---- What a child cannot do, and what it need not do.


def torch_in_a_child():
    """The caller's own torch, before anything here has imported it."""
    import torch

    grid = torch.rand(700, 700)
    grid @ grid

    def work():
        write, expected = writer("torch float32")
        return torch.get_num_threads() == 1 and write(0) == expected[0]

    print(*ends([child(work)]))


def test_torch_that_the_caller_has_used_computes_in_a_child():
    needs("torch")
    assert alone(torch_in_a_child) == ["0"]


def test_training_in_a_child_takes_one_thread():
    """Two threads would wait for ever for those that stayed in the parent."""
    needs("torch")
    assert alone(training_threads_in_a_child) == ["0"]


def training_threads_in_a_child():
    from gpt2lab.train import start
    from gpt2lab.train.config import TrainConfig

    def work():
        start.ready(TrainConfig(steps=1, threads=1, dtype="float32", device="cpu"))
        try:
            start.ready(TrainConfig(steps=1, threads=2, dtype="float32", device="cpu"))
        except InputError as error:
            return "threads is 2" in str(error) and "spawn" in str(error)
        return False

    print(*ends([child(work)]))


def test_a_gpu_is_refused_in_a_child():
    """CUDA cannot be used after a fork, and said so in many lines."""
    needs("torch")
    engine = model("torch float32").engine
    cache, engine.device, engine._process = engine.cache(), "cuda", -1
    for call in (
        engine.cache,
        lambda: engine.step(cache, [cache.new()], [[1]]),
        lambda: engine.logits([[1]]),
    ):
        with pytest.raises(InputError, match=r"on cuda before the process was forked.*spawn"):
            call()


def test_a_child_waits_for_the_kernels_that_its_parent_compiles(monkeypatch):
    """Popen.poll gives 0 for a process that is not one's own child, so each child believed that the
    kernels were there, and compiled them for itself before its first token."""
    if cpu_features.why_not():
        pytest.skip(cpu_features.why_not())
    command = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    monkeypatch.setattr(compile_cache, "in_background", lambda *_: process)
    monkeypatch.setattr(compile_cache, "ready", lambda *_: False)
    built = tiny_engine()
    engine = fallback.Fallback(tiny_engine(), lambda: built)
    assert ends([child(lambda: engine._look() is engine._first)]) == [0]
    process.communicate(b"\n")
    assert engine._look() is engine._first  # it has ended without a file
    monkeypatch.setattr(compile_cache, "ready", lambda *_: True)
    assert engine._look() is built
    assert engine.config == TINY
