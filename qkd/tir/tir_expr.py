"""Values of a kernel: typed expressions over TVM's TIR nodes. Kernel files import them through `qkd.tir.tir`.

Operands must have the same type; a Python int takes the type of the other operand. int32 and int64 sums must not
overflow: TVM marks them `nsw`, and LLVM then relies on it. int8 and int16 wrap.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm import tirx
from tvm.tirx.script import builder as T

from qkd.errors import InvariantError


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
        dtype = with_lanes("bool", split_dtype(self.dtype)[1])
        return Expr(function(self.node, same_type(other, self.dtype).node), dtype)

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
        return self._apply(T.And if self.dtype.startswith("bool") else T.bitwise_and, other)

    def __or__(self, other: "Operand") -> "Expr":
        return self._apply(T.Or if self.dtype.startswith("bool") else T.bitwise_or, other)

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
        """Whether both are the same number, lane by lane."""
        return self._compare(T.EQ, other)


Operand: TypeAlias = Expr | int


def constant(value: int, dtype: str = "int32") -> Expr:
    """A number of the given type; all lanes of a vector."""
    scalar, lanes = split_dtype(dtype)
    node = tirx.const(value, scalar)
    return Expr(node if lanes == 1 else T.Broadcast(node, lanes), dtype)


def vector(values: Sequence[int], scalar: str) -> Expr:
    """A vector of different numbers, such as the indices of a table look-up; LLVM puts it beside the code."""
    lanes = range(len(values))
    nodes = [tirx.const(value, scalar) for value in values], [tirx.const(lane, "int32") for lane in lanes]
    return Expr(T.Shuffle(*nodes), with_lanes(scalar, len(values)))


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
    return cast((cast(a, "int64") * cast(b, "int64")) >> 32, "int32")


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
    return _intrinsic(T.call_llvm_pure_intrin, dtype, name, arguments)


def memory_intrinsic(dtype: str, name: str, *arguments: Expr) -> Expr:
    """An LLVM intrinsic that reads or writes memory: `llvm.masked.load`; it takes a `Pointer.address`."""
    return _intrinsic(T.call_llvm_intrin, dtype, name, arguments)


def _intrinsic(make: Callable[..., Any], dtype: str, name: str, arguments: Sequence[Expr]) -> Expr:
    try:
        return Expr(make(dtype, name, *(a.node for a in arguments)), dtype)
    except ValueError as error:
        raise InvariantError(f"a kernel uses the intrinsic {name!r}, which LLVM in TVM does not have") from error
