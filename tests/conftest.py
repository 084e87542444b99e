"""One cache folder for a whole run; the kernels are compiled into it before the first test."""

from __future__ import annotations

import pytest

from gpt2lab.engines import machine

DTYPES = ("float32", "bfloat16", "int8")


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory):
    """Also for the commands that tests start: they inherit the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if not machine.why_not():
            from gpt2lab.engines import compiled

            compiled.library("crew", machine.here())
            compiled.library("run", machine.here(), "float32", "float32")
        yield
