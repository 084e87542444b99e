"""Short names for LLVM instructions, and functions that several kernels share.

llvmlite builds LLVM's intermediate representation one instruction at a time: a `b` is its
`IRBuilder`, a `Value` what an instruction gives. All addresses and counts are int64; lanes are the
32-bit numbers of one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64, VOID = ir.FloatType(), ir.DoubleType(), ir.VoidType()
Value = Any

i64 = types.int64


def const(kind: Any, value: Any) -> Value:
    """A constant."""
    return ir.Constant(kind, value)


def splat_const(kind: Any, count: int, value: Any) -> Value:
    """A constant in every lane."""
    return ir.Constant(ir.VectorType(kind, count), [value] * count)


def call(b: Any, name: str, returns: Any, *values: Value) -> Value:
    """A call of an LLVM intrinsic or a C function by its name."""
    kind = ir.FunctionType(returns, [value.type for value in values])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    return b.call(function, values)


def load(b: Any, address: Value, kind: Any, align: int = 4) -> Value:
    """The value at an address."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def store(b: Any, value: Value, address: Value, align: int = 4) -> None:
    """Write a value to an address."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = align


def splat(b: Any, value: Value, count: int) -> Value:
    """One number in every lane."""
    kind = ir.VectorType(value.type, count)
    first = b.insert_element(const(kind, ir.Undefined), value, const(I32, 0))
    return b.shuffle_vector(first, const(kind, ir.Undefined), splat_const(I32, count, 0))


def strided(b: Any, base: Value, stride: Value, index: int) -> Value:
    """base + index * stride."""
    return b.add(base, b.mul(stride, const(I64, index))) if index else base


def prefetch_line(b: Any, address: Value) -> None:
    """Ask for the cache line at an address."""
    where = b.inttoptr(address, I8.as_pointer())
    flags = [const(I32, flag) for flag in (0, 2, 1)]  # to read, second level, data
    call(b, "llvm.prefetch.p0", VOID, where, *flags)


def pick(b: Any, vector: Value, lanes: range) -> Value:
    """Some lanes of a vector."""
    mask = const(ir.VectorType(I32, len(lanes)), list(lanes))
    return b.shuffle_vector(vector, const(vector.type, ir.Undefined), mask)


def loop(b: Any, count: Value, body: Callable[..., list[Value]], *first: Value) -> list[Value]:
    """body(i, *carried) -> what is carried on, for i from 0 below count (at least once)."""
    before, block, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(block)
    b.position_at_end(block)
    i, carried = b.phi(I64), [b.phi(value.type) for value in first]
    results = body(i, *carried)
    following = b.add(i, const(I64, 1))
    for phi, start, end in zip(
        [i, *carried], [const(I64, 0), *first], [following, *results], strict=True
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(end, b.block)
    b.cbranch(b.icmp_signed("<", following, count), block, after)
    b.position_at_end(after)
    return results


def fold(b: Any, vector: Value, pair: Callable[..., Value]) -> Value:
    """All lanes as one number, in halves."""
    lanes = [b.extract_element(vector, const(I32, i)) for i in range(vector.type.count)]
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [pair(x, y) for x, y in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


#: The bodies of the functions that `_shared` declares: how many arguments, what is returned, code.
BODIES: dict[str, tuple[int, Any, Callable[..., None]]] = {}


def shared(name: str, arguments: int, returns: Any, make: Callable[..., None]) -> Any:
    """An intrinsic of int64 arguments that calls a function of its own, which `bodies` writes.

    Each caller gets the same code, so the same bits; and Numba, which goes over a module many
    times, never sees it.
    """
    BODIES[name] = arguments, returns, make
    result = types.float32 if returns is F32 else types.void

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Value:
        kind = ir.FunctionType(returns, [I64] * arguments)
        function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
        value = b.call(function, args)
        return value if returns is F32 else context.get_dummy_value()

    return result, generate


def bodies(names: set[str], triple: str, layout: str) -> str:
    """LLVM's text of a module that defines these functions."""
    module = ir.Module()
    module.triple, module.data_layout = triple, layout
    for name in sorted(names):
        arguments, returns, make = BODIES[name]
        function = ir.Function(module, ir.FunctionType(returns, [I64] * arguments), name)
        function.attributes.add("nounwind")
        make(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
    return str(module)
