"""Kernels loaded without LLVM, and what LLVM says of the processor, remembered."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from gpt2lab.engines.cpu import compile_cache, cpu_features, elf_loader

pytestmark = pytest.mark.skipif(bool(cpu_features.why_not()), reason=cpu_features.why_not())
here = pytest.mark.skipif(
    not sys.platform.startswith("linux") or cpu_features.platform.machine() != "x86_64",
    reason="ELF for x86-64 alone is loaded without LLVM",
)


def compiled(source: str) -> bytes:
    """Object code of a module of LLVM's language, made as the kernels are."""
    import llvmlite.binding as llvm

    target = compile_cache._target_machine(cpu_features.here())
    return target.emit_object(llvm.parse_assembly(source))


SOURCE = """
@table = internal constant [4 x i64] [i64 3, i64 5, i64 7, i64 11], align 64
@pi = internal constant double 0x400921FB54442D18
declare void @gpt2lab_yield()
define internal i64 @inner(i64 %i) noinline {
  %at = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %found = load i64, ptr %at
  ret i64 %found
}
define i64 @gpt2lab_run(i64 %i) {
  call void @gpt2lab_yield()
  %x = call i64 @inner(i64 %i)
  %pi = load volatile double, ptr @pi
  %scaled = fmul double %pi, 1.0e3
  %y = fptosi double %scaled to i64
  %z = add i64 %x, %y
  ret i64 %z
}
"""


@here
def test_constants_calls_and_foreign_functions_are_linked():
    called = []
    other = ctypes.CFUNCTYPE(None)(lambda: called.append(1))
    loaded = elf_loader.LoadedCode(
        compiled(SOURCE), {"gpt2lab_yield": ctypes.cast(other, ctypes.c_void_p).value}.__getitem__
    )
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(loaded.address("gpt2lab_run"))
    assert [run(i) for i in range(4)] == [3 + 3141, 5 + 3141, 7 + 3141, 11 + 3141]
    assert len(called) == 4


@here
def test_object_code_that_is_not_handled_is_refused():
    code = compiled(SOURCE)
    for bad in (b"", b"\xcf\xfa\xed\xfe" + bytes(200), code[:18] + b"\xb7\0" + code[20:]):
        with pytest.raises(elf_loader.NotLoadable):  # none, macOS's, Arm's
            elf_loader.LoadedCode(bad, lambda name: 0)
    for end in range(0, len(code), 7):
        with pytest.raises(elf_loader.NotLoadable):
            elf_loader.LoadedCode(code[:end], lambda name: 0)
    with pytest.raises(elf_loader.NotLoadable, match=r"relocation \d+ of missing"):
        other = SOURCE.replace("gpt2lab_yield", "missing").replace("call void", "call void ")
        small = compiled_small(other)
        elf_loader.LoadedCode(small, lambda name: 0)


def compiled_small(source: str) -> bytes:
    """The same in the small code model, whose calls of others cannot reach everywhere."""
    import llvmlite.binding as llvm

    target = llvm.Target.from_default_triple().create_target_machine(
        reloc="pic", codemodel="small", jit=True
    )
    return target.emit_object(llvm.parse_assembly(source))


def test_llvm_loads_what_is_not_handled(monkeypatch):
    def refused(*_):
        raise elf_loader.NotLoadable("another system")

    monkeypatch.setattr(elf_loader, "LoadedCode", refused)
    address = compile_cache._address_in(compiled(SOURCE), "gpt2lab_run", cpu_features.here())
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(2) == 7 + 3141


@here
def test_a_warm_start_imports_no_llvm():
    """It took 45 MB and a tenth of a second of each start."""
    code = (
        "import gpt2lab, sys; lm = gpt2lab.load(engine='cpu', dtype='float32');"
        "lm.generate('Once', max_new_tokens=2, seed=1);"
        "print([name for name in sys.modules if 'llvmlite' in name or 'numba' in name])"
    )
    for _ in range(5):  # another test's process may write over what the first has remembered
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if run.stdout.strip() == "[]":
            break
    assert run.stdout.strip() == "[]", run.stderr


def test_the_processor_is_asked_again_when_it_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked, real = [], cpu_features._asked
    monkeypatch.setattr(cpu_features, "_asked", lambda: asked.append(1) or real())
    host = cpu_features._host.__wrapped__
    monkeypatch.setattr(cpu_features, "_processor", lambda: "one")
    assert host() == host() == real()
    assert len(asked) == 1 or cpu_features._llvm_library() is None
    monkeypatch.setattr(cpu_features, "_processor", lambda: "another")
    host()
    monkeypatch.setattr(cpu_features, "_processor", lambda: "")  # a system that does not tell
    assert host() == host()
    assert len(asked) >= 4


@pytest.mark.parametrize("value", [None, 3, [], ["1", "x"], ["1", 2, ["avx"]], ["1", "x", [3]]])
def test_a_damaged_memory_of_the_processor_is_no_host(value):
    assert cpu_features._as_host(value) is None
