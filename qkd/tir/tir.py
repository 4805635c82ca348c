"""Write kernels in TVM's TIR: expressions, memory, registers and loops. Kernel files import this and never tvm.

A kernel is a Python function that runs once, while the network is lowered, and records what the device shall do:

    def body(x: Pointer, y: Pointer) -> None:
        with loop(16) as i:
            y[i] = cast(widen(x[i]) + 1, "int8")
    func = function("add_one", [Param("x", "int8", 16), Param("y", "int8", 16)], body)

A Python `for` is unrolled, `loop` is a loop of the device, and whatever is known here (shapes, shifts, strides) becomes
an immediate. `tir_expr` tells how values combine.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from qkd.tir.tir_expr import (
    Expr,
    Operand,
    broadcast,
    cast,
    clamp,
    constant,
    high_half,
    intrinsic,
    lane,
    low_half,
    maximum,
    memory_intrinsic,
    minimum,
    mulhi,
    reinterpret,
    same_type,
    select,
    shuffle,
    split_dtype,
    vector,
    widen,
    with_lanes,
)

__all__ = [
    "PRELUDE",
    "Expr",
    "Operand",
    "Param",
    "Pointer",
    "PrimFunc",
    "Program",
    "Register",
    "array",
    "branch",
    "broadcast",
    "call",
    "cast",
    "clamp",
    "constant",
    "evaluate",
    "function",
    "high_half",
    "intrinsic",
    "lane",
    "let",
    "loop",
    "low_half",
    "maximum",
    "memory_intrinsic",
    "minimum",
    "mulhi",
    "nounroll",
    "opaque",
    "reinterpret",
    "same_type",
    "select",
    "shuffle",
    "split_dtype",
    "vector",
    "when",
    "widen",
    "with_lanes",
]

PrimFunc: TypeAlias = tirx.PrimFunc

PRELUDE = """
define i32 @qkd_nounroll() {
  call void asm sideeffect "", ""() #0
  ret i32 0
}
define i32 @qkd_opaque(i32 %value) {
  %result = call i32 asm "", "=r,0"(i32 %value)
  ret i32 %result
}
attributes #0 = { nounwind noduplicate willreturn memory(inaccessiblemem: readwrite) }
"""
"""LLVM IR that every kernel can call; TVM inlines it all, so nothing of it reaches an object by itself."""


def call(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A function of the prelude given to `function`, inlined by TVM."""
    return Expr(T.call_extern(dtype, name, *(a.node for a in arguments)), dtype)


def let(value: Expr) -> Expr:
    """Compute `value` here, once, and use the result by name."""
    return Expr(T.Bind(value.node), value.dtype)


def evaluate(value: Expr) -> None:
    """Compute `value` for its side effect."""
    T.evaluate(value.node)


def opaque(value: Operand) -> Expr:
    """An int32 of which LLVM knows nothing: hides the trip count of a loop, or how an index was computed."""
    return call("int32", "qkd_opaque", same_type(value, "int32"))


def nounroll() -> None:
    """Keep LLVM from unrolling (and vectorising) the loop whose body starts with this.

    LLVM unrolls loops of constant trip count until the loads no longer fit the registers; TVM has no loop metadata.
    Not for MVE, where it also prevents hardware loops.
    """
    evaluate(call("int32", "qkd_nounroll"))


class Pointer:
    """Typed memory: a parameter of the kernel, or a view of one; indices count elements."""

    def __init__(self, buffer: Any, dtype: str) -> None:
        self._buffer = buffer
        self.dtype = dtype

    def __getitem__(self, index: Operand) -> Expr:
        return Expr(self._buffer[_node(index)], self.dtype)

    def load(self, index: Operand, lanes: int) -> Expr:
        """`lanes` consecutive elements as a vector; needs the alignment of one element only."""
        return Expr(self._buffer[T.Ramp(_node(index), 1, lanes)], with_lanes(self.dtype, lanes))

    def __setitem__(self, index: Operand, value: Operand) -> None:
        """Store a scalar, or a vector into consecutive elements."""
        lanes = split_dtype(value.dtype)[1] if isinstance(value, Expr) else 1
        at = _node(index) if lanes == 1 else T.Ramp(_node(index), 1, lanes)
        T.buffer_store(self._buffer, same_type(value, with_lanes(self.dtype, lanes)).node, [at])

    def address(self, index: Operand) -> Expr:
        """Address of an element, for intrinsics and functions of a prelude."""
        return Expr(T.address_of(self._buffer[_node(index)]), "handle")

    def view(self, dtype: str) -> "Pointer":
        """The same bytes as elements of another type; the pointer must have that type's alignment."""
        size = int(self._buffer.shape[0]) * _bits(self.dtype) // _bits(dtype)
        return Pointer(T.decl_buffer((size,), dtype, data=self._buffer.data, layout=None), dtype)

    def part(self, start: int, elements: int) -> "Pointer":
        """Memory from element `start` on, like a parameter of its own: nothing else may touch it from here on."""
        handle = T.Bind(T.address_of(self._buffer[start]), T.handle(self.dtype).ty)
        return Pointer(T.decl_buffer((elements,), self.dtype, data=handle, layout=None), self.dtype)


class Register:
    """A variable of the device; LLVM keeps it in a register where one is free."""

    def __init__(self, dtype: str = "int32", value: Operand = 0) -> None:
        self.dtype = dtype
        self._buffer = T.alloc_buffer((1,), dtype, scope="local", layout=None)
        self.value = same_type(value, dtype)

    @property
    def value(self) -> Expr:
        """What the register holds at this point of the program."""
        return Expr(self._buffer[0], self.dtype)

    @value.setter
    def value(self, value: Expr) -> None:
        T.buffer_store(self._buffer, same_type(value, self.dtype).node, [0])


def array(dtype: str, elements: int) -> Pointer:
    """A few elements of local memory; LLVM keeps them in registers where every index is known."""
    return Pointer(T.alloc_buffer((elements,), dtype, scope="local", layout=None), dtype)


@contextmanager
def loop(count: Operand) -> Iterator[Expr]:
    """Repeat the body on the device; gives the index, 0 … count - 1."""
    with T.serial(_node(count)) as index:
        yield Expr(index, "int32")


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Run the body where `condition` holds."""
    with T.If(condition.node), T.Then():
        yield


def branch(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Run one of two bodies."""
    with T.If(condition.node):
        with T.Then():
            then()
        with T.Else():
            otherwise()


@dataclass(frozen=True)
class Param:
    """A pointer that a kernel receives."""

    name: str
    dtype: str
    elements: int


def function(
    symbol: str, params: Sequence[Param], body: Callable[..., None], *, may_alias: bool = False, prelude: str = ""
) -> PrimFunc:
    """Record a kernel.

    Parameters
    ----------
    symbol : str
        The C name.
    params : sequence of Param
        Its pointers, in order.
    body : callable
        Called once with a Pointer a parameter; what it does is what the kernel does.
    may_alias : bool
        Two parameters may be the same memory (a kernel that works in place); LLVM then assumes nothing.
    prelude : str
        LLVM IR with further functions for `call`; all of them are inlined.

    Returns
    -------
    tvm.tirx.PrimFunc
        With pointers as parameters: it is lowered to a plain C function.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(symbol)
        T.func_attr({"global_symbol": symbol, "tirx.noalias": not may_alias})
        handles = [T.arg(p.name, T.handle(p.dtype)) for p in params]
        if may_alias:  # TVM tells LLVM that two parameters differ, except where a pointer was bound
            handles = [T.Bind(handle) for handle in handles]
        pointers = [
            Pointer(T.decl_buffer((p.elements,), p.dtype, data=handle, layout=None), p.dtype)
            for p, handle in zip(params, handles, strict=True)
        ]
        with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", PRELUDE + prelude):
            body(*pointers)
    return builder.get()


@dataclass(frozen=True, eq=False)
class Program:
    """A kernel before it has a name: what `function` records, also as a part of another kernel."""

    params: tuple[Param, ...]
    body: Callable[..., None]
    may_alias: bool = False
    prelude: str = ""

    def __call__(self, symbol: str) -> PrimFunc:
        """Record it under a C name."""
        return function(symbol, self.params, self.body, may_alias=self.may_alias, prelude=self.prelude)


def _node(index: Operand) -> Any:
    return index.node if isinstance(index, Expr) else index


def _bits(dtype: str) -> int:
    return int(dtype.lstrip("uint"))
