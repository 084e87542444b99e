"""Memory and threads for compiled code: typed pointers, atomic words, prefetch, spin and yield."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpt2lab.engines.cpu.llvm.builder import (
    F32,
    F64,
    I32,
    I64,
    VOID,
    Value,
    call,
    const,
    i64,
    prefetch_line,
)


@intrinsic
def prefetch(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        prefetch_line(b, args[0])
        return context.get_dummy_value()

    return types.void(i64), generate


def _pointer(kind: Any) -> Callable[..., Any]:
    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
            return b.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(i64), generate

    return pointer


floats, ints, words = _pointer(types.float32), _pointer(types.int32), _pointer(types.int64)
halves, shorts, chars = _pointer(types.uint16), _pointer(types.int16), _pointer(types.int8)
doubles, naturals = _pointer(types.float64), _pointer(types.uint32)


@intrinsic
def bits(_: Any, x: Any) -> Any:
    """The 32 bits of a float32 as an int32."""
    return types.int32(types.float32), lambda c, b, s, a: b.bitcast(a[0], I32)


@intrinsic
def from_bits(_: Any, x: Any) -> Any:
    """The float32 of 32 bits."""
    return types.float32(types.int32), lambda c, b, s, a: b.bitcast(a[0], F32)


@intrinsic
def double_bits(_: Any, x: Any) -> Any:
    """The 64 bits of a float64 as an int64."""
    return i64(types.float64), lambda c, b, s, a: b.bitcast(a[0], I64)


@intrinsic
def double_of(_: Any, x: Any) -> Any:
    """The float64 of 64 bits."""
    return types.float64(i64), lambda c, b, s, a: b.bitcast(a[0], F64)


@intrinsic
def load_atomic(_: Any, address: Any) -> Any:
    """The value that is there now."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return i64(i64), generate


@intrinsic
def store_atomic(_: Any, address: Any, value: Any) -> Any:
    """Write, after all that was written before."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        b.store_atomic(args[1], b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(i64, i64), generate


@intrinsic
def add_atomic(_: Any, address: Any, value: Any) -> Any:
    """Add and return what stood there before."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        return b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return i64(i64, i64), generate


@intrinsic
def swap_atomic(_: Any, address: Any, old: Any, new: Any) -> Any:
    """Write `new` where `old` stands; whether it stood there."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        place = b.inttoptr(args[0], I64.as_pointer())
        return b.extract_value(b.cmpxchg(place, args[1], args[2], "seq_cst"), 1)

    return types.boolean(i64, i64, i64), generate


@intrinsic
def relax(_: Any) -> Any:
    """Tell the core that this is a spin."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            call(b, "llvm.x86.sse2.pause", VOID)
        elif machine in ("aarch64", "arm64"):
            call(b, "llvm.aarch64.hint", VOID, const(I32, 1))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def give_way(_: Any) -> Any:
    """Let another thread have the core."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        call(b, "gpt2lab_yield", I32)  # the system's own, see `compile_cache`
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call_at(_: Any, function: Any, control: Any, epoch: Any, me: Any) -> Any:
    """Call the function at an address: (control, epoch, me) -> nothing."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        kind = ir.FunctionType(VOID, [I64, I64, I64])
        b.call(b.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(i64, i64, i64, i64), generate
