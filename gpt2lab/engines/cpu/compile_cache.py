"""Compiled kernels on disk: made once per machine by Numba, loaded in milliseconds without it.

What is kept is object code under a name that holds everything it depends on: these sources, the
compiler's versions, the processor and its features. A file that is damaged or of another machine
is never loaded; it is made again.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import stat
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2lab import forks
from gpt2lab.engines.cpu import cpu_features, elf_loader
from gpt2lab.engines.cpu.cpu_features import Target
from gpt2lab.errors import Failure
from gpt2lab.files.kept import cache_folder, keep

if TYPE_CHECKING:
    import subprocess

log = logging.getLogger(__name__)

LARGEST = 64 << 20  # bytes of all kernels; one has a few hundred thousand
_SOURCES = (
    *("compile_cache.py", "cpu_features.py", "layout.py", "phases.py", "tickets.py", "rows.py"),
    *("matrix.py", "kv.py", "attention.py", "scoring.py", "step.py"),
    *(
        f"llvm/{name}.py"
        for name in ("builder", "products", "tile", "vector_math", "rows", "memory")
    ),
)
_DRAW_SOURCES = (
    *(f"draw/{name}.py" for name in ("table", "numbers", "space", "search", "truncation", "edits")),
    *("draw/rounded.py", "draw/rows.py", "llvm/passes.py"),
)
_ARGUMENTS = {"run": 3, "crew": 5, "draw": 3}


@cache
def _key(target: Target, draws: bool) -> str:
    """A short hash of all that object code depends on."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for source in (*_SOURCES, *(_DRAW_SOURCES if draws else ())):
        digest.update((here / source).read_bytes())
    parts = (cpu_features.compiler(), platform.platform(), cpu_features.features()[0], target)
    digest.update(repr(parts).encode())
    return digest.hexdigest()[:16]


def _file(label: str, target: Target) -> Path | None:
    """Where object code is kept: the user's cache folder, a temporary one where that is closed."""
    with suppress(Failure):
        return cache_folder("kernels") / f"{label}-{_key(target, label == 'draw')}.o"
    return None


def ready(target: Target, weights: str, cache: str) -> bool:
    """Whether everything is compiled that an engine of these dtypes needs."""
    labels = ("crew", f"run-{weights}-{cache}")
    return all((label, target) in _loaded or _read(_file(label, target)) for label in labels)


def _read(path: Path | None) -> bytes | None:
    """The object code of a file that is whole, else None."""
    if path is None:
        return None
    try:
        s = path.lstat()  # a pipe would be waited for, a link to a device read without an end
        if not stat.S_ISREG(s.st_mode) or s.st_size > LARGEST:
            return None
        raw = path.read_bytes()
    except OSError:
        return None
    digest, code = raw[:32], raw[32:]
    return code if code and hashlib.sha256(code).digest() == digest else None


def why_none() -> str:
    """Why nothing can be compiled here, as part of a sentence; empty where it can.

    Numba may be found and not load, so only importing it tells.
    """
    try:
        import numba  # noqa: F401
    except Exception as error:  # of whatever it imports in its turn
        return f"the package numba does not load ({error!s:.100})"
    return ""


# ---- To object code and from it.

_WRAPPER = """
define void @gpt2lab_{name}({parameters}) {{
  %result = alloca ptr
  %error = alloca ptr
  %status = call i32 @"{inner}"(ptr %result, ptr %error, {arguments})
  ret void
}}
"""


def compile_object(function: Any, signature: Any, name: str, target: Target) -> bytes:
    """Object code that exports a Numba function as the C function `gpt2lab_NAME` of int64s.

    Numba's own wrapper would need Numba in every process; the functions here raise nothing, so
    what Numba's calling convention reports is dropped.
    """
    import llvmlite.binding as llvm

    from gpt2lab.engines.cpu.llvm.builder import BODIES, bodies

    for wanted in BODIES:  # Numba loads what it compiles; it is never run there
        llvm.add_symbol(wanted, _address(_abort()))
    function.compile(signature.args)
    result = function.overloads[signature.args]
    inner = result.fndesc.llvm_func_name
    glue = llvm.parse_assembly(result.library.get_llvm_str())
    for item in [*glue.functions, *glue.global_variables]:
        if not item.is_declaration:
            item.linkage = "internal"
    called = {item.name for item in glue.functions if item.is_declaration} & set(BODIES)
    parameters = ", ".join(f"i64 %a{i}" for i in range(_ARGUMENTS[name]))
    wrapper = _WRAPPER.format(name=name, inner=inner, parameters=parameters, arguments=parameters)
    module = llvm.parse_assembly(str(glue) + wrapper)
    code = _target_machine(target)
    builder = llvm.create_pass_builder(code, llvm.create_pipeline_tuning_options(speed_level=2))
    if called:
        vectors = llvm.parse_assembly(bodies(called, module.triple, module.data_layout))
        builder.getModulePassManager().run(vectors, builder)
        module.link_in(vectors)
        for item in module.functions:
            if item.name in called:
                item.linkage = "internal"
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
    return bytes(code.emit_object(module))


def _target_machine(target: Target) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = ",".join(f"+{name}" for name in target.features)
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu_features.features()[0], features=features, opt=3, reloc="pic",
        codemodel="jitdefault", jit=True,
    )  # fmt: skip


def _give_symbols() -> None:
    """Tell LLVM's linker where the C functions are."""
    import llvmlite.binding as llvm

    for name in _FUNCTIONS:
        llvm.add_symbol(name, _function(name))


#: The few C functions that kernels may call. The first three LLVM makes of plain loops; the last is
#: Numba's code to free an array: arrays here are views of addresses, so it is never reached.
_FUNCTIONS = ("memcpy", "memset", "memmove", "gpt2lab_yield", "NRT_MemInfo_call_dtor")


def _function(name: str) -> int:
    """The address of one of `_FUNCTIONS`."""
    if name == "NRT_MemInfo_call_dtor":
        return _address(_abort())
    if name != "gpt2lab_yield":
        return _address(getattr(_libc(), name))
    if platform.system() == "Windows":
        return _address(ctypes.windll.kernel32.SwitchToThread)  # type: ignore[attr-defined,unused-ignore]
    return _address(_libc().sched_yield)


def _libc() -> Any:
    return ctypes.CDLL("msvcrt" if platform.system() == "Windows" else None)


def _abort() -> Any:
    return _libc().abort


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


#: Code is never unloaded: a helper thread may be about to leave it.
_engines: list[Any] = []


class CompiledCode:
    """Object code that has been loaded: C functions that run without Python's lock."""

    def __init__(self, code: bytes, name: str, target: Target) -> None:
        self.address = _address_in(code, f"gpt2lab_{name}", target)
        kinds = [ctypes.c_int64] * _ARGUMENTS[name]
        self.call = ctypes.CFUNCTYPE(None, *kinds)(self.address)


def _address_in(code: bytes, name: str, target: Target) -> int:
    """Load object code, without LLVM where that can be, and give the address of its function."""
    with suppress(elf_loader.NotLoadable):
        loaded = elf_loader.LoadedCode(code, _function)
        _engines.append(loaded)
        return loaded.address(name)
    import llvmlite.binding as llvm

    tm = _target_machine(target)
    _give_symbols()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), tm)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


_loaded: dict[tuple[str, Target], CompiledCode] = {}


def _label(*parts: str) -> str:
    return "-".join(part for part in parts if part)


def library(name: str, target: Target, weights: str = "", cache: str = "") -> CompiledCode:
    """A compiled function: "crew", "draw", or "run" for weights and cache of some dtypes."""
    label = _label(name, weights, cache)
    with forks.whole():  # llvmlite has a lock of its own
        if (label, target) not in _loaded:
            code = _read(_file(label, target)) or _compiled(name, target, weights, cache)
            _loaded[label, target] = CompiledCode(code, name, target)
        return _loaded[label, target]


def kept(name: str, target: Target) -> CompiledCode | None:
    """A compiled function if it is at hand, None where it would have to be compiled first."""
    if (name, target) in _loaded or _read(_file(name, target)):
        return library(name, target)
    return None


def _compiled(name: str, target: Target, weights: str, cache: str) -> bytes:
    """Object code that is not on disk yet; it is there afterwards."""
    label = _label(name, weights, cache)
    what = f"the {weights} kernels" if weights else f"the kernel {name!r}"
    log.info(f"compiling {what} for {target.name}, once on this machine; it takes 5 to 15 s")
    try:
        code = _make(name, target, weights, cache)
    except Exception as error:  # whatever Numba or LLVM has to say
        raise Failure(
            f"{label} could not be compiled for {target.name} ({error!s:.200}); "
            "engine numpy serves without"
        ) from error
    if (path := _file(label, target)) is not None:
        keep(path, hashlib.sha256(code).digest(), code, most=LARGEST)
    return code


# ---- In the background.

_CODE = """
import os, sys
sys.path[:] = {path!r}
if hasattr(os, "nice"):
    os.nice(10)
from gpt2lab.engines.cpu import compile_cache, cpu_features
compile_cache.library("crew", cpu_features.here())
if {weights!r}:
    compile_cache.library("run", cpu_features.here(), {weights!r}, {cache!r})
compile_cache.library("draw", cpu_features.here())
"""


def in_background(weights: str = "", cache: str = "") -> subprocess.Popen[bytes] | None:
    """A process of its own that compiles what an engine of these dtypes needs, then the draw.

    It continues when this one ends. None where Python cannot be started again.
    """
    if not sys.executable:
        return None
    import subprocess

    code = _CODE.format(path=sys.path, weights=weights, cache=cache)
    nothing = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            start_new_session=True,
        )
    except OSError:
        return None
    _started.append(process)
    return process


_started: list[subprocess.Popen[bytes]] = []  # an engine may be forgotten before its process ends


def kept_soon(name: str, target: Target) -> CompiledCode | None:
    """`kept`; where it has to be compiled, see to it that a process of its own has begun to."""
    found = kept(name, target)
    if found is None and not _started:
        in_background()
    return found


def _make(name: str, target: Target, weights: str, cache: str) -> bytes:
    from gpt2lab.engines.cpu import step, tickets

    _give_symbols()
    if name == "crew":
        return compile_object(tickets.crew, tickets.CREW, name, target)
    if name == "draw":
        from gpt2lab.engines.cpu.draw import rows

        return compile_object(rows.draw_kernel(target), step.RUN, name, target)
    return compile_object(step.step_kernel(target, weights, cache), step.RUN, name, target)
