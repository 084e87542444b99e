"""Commands in processes that need not import torch: a server has it imported, and forks for each.

`python warm.py SOCKET WORD...` does what `python -m WORD...` does, in a child of the server that
listens there: with the caller's streams, environment and directory, and its exit code. Signals are
passed on; when the caller is killed, the child ends at once too, without a chance to tidy up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

#: What commands that train import sooner or later.
PRELOADED = (
    "gpt2lab.commands.train",
    "gpt2lab.commands.finetune",
    "gpt2lab.commands.prepare",
    "gpt2lab.train.launch",
    "gpt2lab.train.report",
    "matplotlib.figure",
    "tensorboardX",
    "torch.distributed.run",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch._dynamo",
    "tqdm",
)


# ---- The server.


def _end_with(caller: socket.socket) -> None:
    caller.recv(1)
    os._exit(137)


def _serve_one(caller: socket.socket) -> int:
    """Run what the caller asks for; the exit code."""
    import runpy

    head, streams, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as file:
        asked = json.loads(file.read(int.from_bytes(head, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    caller.sendall(os.getpid().to_bytes(8, "big"))
    threading.Thread(target=_end_with, args=(caller,), daemon=True).start()
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["place"])
    sys.path[0] = asked["place"]
    module, *sys.argv[1:] = asked["words"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def serve(path: str) -> None:
    """Listen until the standard input is closed."""
    import importlib
    import select

    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that the children leave nothing
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(32)
        print("ready", flush=True)
        while sys.stdin.buffer not in select.select([listener, sys.stdin.buffer], [], [])[0]:
            caller, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                child = os.fork()
                if child:  # a command may end by `os._exit`, so its code is that of a process
                    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                    with contextlib.suppress(OSError):
                        caller.sendall(bytes([ended % 256]))
                    os._exit(0)
                code = _serve_one(caller)
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
            caller.close()


# ---- The caller.


def call(path: str, words: list[str]) -> int:
    """Have the server run these words; the exit code."""
    asked = {"words": words, "environment": dict(os.environ), "place": os.getcwd()}  # noqa: PTH109
    message = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [len(message).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(message)
        child = int.from_bytes(server.recv(8), "big")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(child, number))
        code = server.recv(1)
    return code[0] if code else 1


# ---- For tests.


def server(folder: Path):
    """Start a server: its process, and the words that begin a command for it."""
    import subprocess

    path = str(folder / "warm")  # the path of a socket has 107 characters at most
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", path], cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONUTF8": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process, [sys.executable, "-SE", __file__, path]


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
