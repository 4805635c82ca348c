"""Write kernels in TVM's TIR: expressions, memory, registers and loops. Kernel files import this and never tvm.

A kernel is a Python function that runs once, while the network is lowered, and records what the device shall do:

    def body(x: Pointer, y: Pointer) -> None:
        with loop(16) as i:
            y[i] = cast(widen(x[i]) + 1, "int8")
    func = function("add_one", [Param("x", "int8", 16), Param("y", "int8", 16)], body)

A Python `for` is unrolled, `loop` is a loop of the device, and whatever is known here (shapes, shifts, strides) becomes
an immediate. Operands must have the same type; a Python int takes the type of the other operand.

int32 and int64 sums must not overflow: TVM marks them `nsw`, and LLVM then relies on it. int8 and int16 wrap.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from qkd.errors import InvariantError
from qkd.kernel import PrimFunc

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


@dataclass(frozen=True, eq=False)
class Expr:
    """A value on the device: an integer (`int8` … `int64`, `bool`) or a vector of them (`int32x4`)."""

    node: Any
    """The TIR expression."""
    dtype: str

    def _apply(self, function: Callable[[Any, Any], Any], other: "Operand", swap: bool = False) -> "Expr":
        right = same_type(other, self.dtype)
        pair = (right.node, self.node) if swap else (self.node, right.node)
        return Expr(function(*pair), self.dtype)

    def _compare(self, function: Callable[[Any, Any], Any], other: "Operand") -> "Expr":
        return Expr(function(self.node, same_type(other, self.dtype).node), "bool")

    def __add__(self, other: "Operand") -> "Expr":
        return self._apply(operator.add, other)

    def __radd__(self, other: int) -> "Expr":
        return self._apply(operator.add, other, swap=True)

    def __sub__(self, other: "Operand") -> "Expr":
        return self._apply(operator.sub, other)

    def __rsub__(self, other: int) -> "Expr":
        return self._apply(operator.sub, other, swap=True)

    def __mul__(self, other: "Operand") -> "Expr":
        return self._apply(operator.mul, other)

    def __rmul__(self, other: int) -> "Expr":
        return self._apply(operator.mul, other, swap=True)

    def __neg__(self) -> "Expr":
        return self._apply(operator.sub, 0, swap=True)

    def __lshift__(self, other: "Operand") -> "Expr":
        return self if other == 0 else self._apply(T.shift_left, other)

    def __rshift__(self, other: "Operand") -> "Expr":
        return self if other == 0 else self._apply(T.shift_right, other)

    def __and__(self, other: "Operand") -> "Expr":
        return self._apply(T.And if self.dtype == "bool" else T.bitwise_and, other)

    def __or__(self, other: "Operand") -> "Expr":
        return self._apply(T.Or if self.dtype == "bool" else T.bitwise_or, other)

    def __xor__(self, other: "Operand") -> "Expr":
        return self._apply(T.bitwise_xor, other)

    def __floordiv__(self, other: "Operand") -> "Expr":
        return self._apply(T.floordiv, other)

    def __mod__(self, other: "Operand") -> "Expr":
        return self._apply(T.floormod, other)

    def __lt__(self, other: "Operand") -> "Expr":
        return self._compare(operator.lt, other)

    def __le__(self, other: "Operand") -> "Expr":
        return self._compare(operator.le, other)

    def __gt__(self, other: "Operand") -> "Expr":
        return self._compare(operator.gt, other)

    def __ge__(self, other: "Operand") -> "Expr":
        return self._compare(operator.ge, other)

    def equals(self, other: "Operand") -> "Expr":
        """Whether both are the same number, as `bool`."""
        return self._compare(T.EQ, other)


Operand: TypeAlias = Expr | int


def constant(value: int, dtype: str = "int32") -> Expr:
    """A number of the given type; all lanes of a vector."""
    scalar, lanes = split_dtype(dtype)
    node = tirx.const(value, scalar)
    return Expr(node if lanes == 1 else T.Broadcast(node, lanes), dtype)


def same_type(value: Operand, dtype: str) -> Expr:
    """`value` as an operand beside a `dtype`: a Python int becomes a constant, another type is an error."""
    if isinstance(value, int):
        return constant(value, dtype)
    if value.dtype != dtype:
        raise InvariantError(f"a kernel combines {dtype} with {value.dtype}; cast or broadcast one of them")
    return value


def split_dtype(dtype: str) -> tuple[str, int]:
    """Element type and lanes.

    >>> split_dtype("int8x16"), split_dtype("int32")
    (('int8', 16), ('int32', 1))
    """
    scalar, _, lanes = dtype.partition("x")
    return scalar, int(lanes or 1)


def with_lanes(scalar: str, lanes: int) -> str:
    """The type of `lanes` elements: `int8` itself for one lane."""
    return scalar if lanes == 1 else f"{scalar}x{lanes}"


def cast(value: Expr, scalar: str) -> Expr:
    """Convert each lane to `scalar`, by sign extension or by dropping high bits."""
    dtype = with_lanes(scalar, split_dtype(value.dtype)[1])
    return Expr(T.Cast(dtype, value.node), dtype)


def widen(value: Expr) -> Expr:
    """Convert each lane to int32."""
    return cast(value, "int32")


def broadcast(value: Expr, lanes: int) -> Expr:
    """A vector whose lanes all hold `value`."""
    return Expr(T.Broadcast(value.node, lanes), with_lanes(value.dtype, lanes))


def minimum(a: Expr, b: Operand) -> Expr:
    """The smaller one, lane by lane."""
    return Expr(T.min(a.node, same_type(b, a.dtype).node), a.dtype)


def maximum(a: Expr, b: Operand) -> Expr:
    """The larger one, lane by lane."""
    return Expr(T.max(a.node, same_type(b, a.dtype).node), a.dtype)


def clamp(value: Expr, low: int, high: int) -> Expr:
    """`value` kept within [low, high]; LLVM makes SSAT, USAT or a saturating narrowing of it where it can."""
    return maximum(minimum(value, high), low)


def select(condition: Expr, then: Expr, otherwise: Operand) -> Expr:
    """`then` where `condition` holds; both are computed."""
    return Expr(T.Select(condition.node, then.node, same_type(otherwise, then.dtype).node), then.dtype)


def mulhi(a: Expr, b: Expr) -> Expr:
    """High word of the 64-bit product of two int32; LLVM makes SMMUL, SMULL or VMULH of this pattern."""
    return cast(cast(a, "int64") * cast(b, "int64") >> 32, "int32")


def reinterpret(value: Expr, dtype: str) -> Expr:
    """The same bits as another type of the same size."""
    return Expr(T.reinterpret(dtype, value.node), dtype)


def shuffle(vectors: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """Pick lanes by number from vectors of one type laid side by side: zip, reverse, extract, concatenate."""
    scalar = split_dtype(vectors[0].dtype)[0]
    for vector in vectors:
        same_type(vector, vectors[0].dtype)
    numbers = [tirx.const(lane, "int32") for lane in lanes]
    return Expr(T.Shuffle([v.node for v in vectors], numbers), with_lanes(scalar, len(numbers)))


def lane(vector: Expr, number: int) -> Expr:
    """One lane of a vector as a scalar."""
    return shuffle((vector,), (number,))


def low_half(vector: Expr) -> Expr:
    """The first half of a vector's lanes."""
    return shuffle((vector,), range(split_dtype(vector.dtype)[1] // 2))


def high_half(vector: Expr) -> Expr:
    """The last half of a vector's lanes."""
    lanes = split_dtype(vector.dtype)[1]
    return shuffle((vector,), range(lanes // 2, lanes))


def intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    """An LLVM intrinsic without side effects, by its name without type suffix: `llvm.arm.smlad`."""
    return Expr(T.call_llvm_pure_intrin(dtype, name, *(a.node for a in arguments)), dtype)


def memory_intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    """An LLVM intrinsic that reads memory; its address is `Pointer.address`."""
    return Expr(T.call_llvm_intrin(dtype, name, *(a.node for a in arguments)), dtype)


def call(dtype: str, name: str, *arguments: Expr) -> Expr:
    """A function of the prelude given to `function`, inlined by TVM."""
    return Expr(T.call_extern(dtype, name, *(a.node for a in arguments)), dtype)


def let(value: Expr) -> Expr:
    """Compute `value` here, once, and use the result by name."""
    return Expr(T.Bind(value.node), value.dtype)


def evaluate(value: Expr) -> None:
    """Compute `value` for its side effect."""
    T.evaluate(value.node)


def opaque(value: int) -> Expr:
    """A number that LLVM does not know: hides the trip count of a loop."""
    return call("int32", "qkd_opaque", constant(value))


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


def _node(index: Operand) -> Any:
    return index.node if isinstance(index, Expr) else index


def _bits(dtype: str) -> int:
    return int(dtype.lstrip("uint"))
