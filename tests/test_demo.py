"""The Gradio demo: the script starts, and its API answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from .support import ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(address: str, body: bytes | None = None) -> str:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_the_demo_starts_and_its_api_answers(tmp_path):
    pytest.importorskip("gradio")
    port = free_port()
    environment = {
        **os.environ,
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    script = [sys.executable, str(ROOT / "examples" / "gradio_demo.py")]
    demo = subprocess.Popen(
        script, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    call = f"http://127.0.0.1:{port}/gradio_api/call/generate_text"
    body = json.dumps({"data": ["Once upon a time"]}).encode()
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                event = json.loads(fetch(call, body))["event_id"]
                break
            except (urllib.error.URLError, ConnectionError):
                assert demo.poll() is None, demo.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.3)
        answer = fetch(f"{call}/{event}")
    finally:
        demo.terminate()
        demo.communicate(timeout=30)
    assert "event: complete" in answer
    [text] = json.loads(answer.split("data: ", 1)[1].split("\n")[0])
    assert text.startswith("Once upon a time") and len(text) > 40
