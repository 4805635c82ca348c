"""Instructions of Armv8.1-M's vector extension (MVE, Helium) that TVM has no word for."""

from qkd.tir.tir import Expr, Operand, Pointer, call, cast, clamp, constant, evaluate, intrinsic, let, reinterpret

LANES = 16
"""Codes of eight bits in a vector."""

QUAD = 4
"""Accumulators of 32 bits in a vector: results are requantized four at a time."""

CODE_BITS, WORD_BITS = 8, 32

NARROWING_SHIFT_LIMIT = 16
"""Largest shift that VQSHRNB encodes."""

PRELUDE = """
declare void @llvm.assume(i1)
define i32 @mve_trip_count(i32 %count) {
  %hidden = call i32 asm "", "=r,0"(i32 %count)
  %positive = icmp sgt i32 %hidden, 0
  call void @llvm.assume(i1 %positive)
  ret i32 %hidden
}
define <16 x i8> @mve_load_aligned(ptr %address) {
  %words = load <4 x i32>, ptr %address, align 4
  %codes = bitcast <4 x i32> %words to <16 x i8>
  ret <16 x i8> %codes
}
define ptr @mve_same_memory(ptr %pointer, ptr %other) {
  %same = call ptr asm sideeffect "", "=r,0,r"(ptr %pointer, ptr %other)
  ret ptr %same
}
define i32 @mve_copy(ptr %to, ptr %from, i32 %offset) {
  %place = getelementptr i8, ptr %from, i32 %offset
  %codes = load <16 x i8>, ptr %place, align 1
  store <16 x i8> %codes, ptr %to, align 1
  ret i32 0
}
define i32 @mve_fill(ptr %address, <16 x i8> %codes) {
  store volatile <16 x i8> %codes, ptr %address, align 1
  ret i32 0
}
declare void @llvm.arm.mve.vstr.scatter.offset.p0.v8i16.v8i16(ptr, <8 x i16>, <8 x i16>, i32, i32)
define i32 @mve_scatter_codes(ptr %base, <8 x i16> %offsets, <8 x i8> %codes) {
  %halves = zext <8 x i8> %codes to <8 x i16>
  call void @llvm.arm.mve.vstr.scatter.offset.p0.v8i16.v8i16(
    ptr %base, <8 x i16> %offsets, <8 x i16> %halves, i32 8, i32 0)
  ret i32 0
}
"""
"""LLVM IR for `call`, besides what every kernel has."""


def narrow(value: Expr, shift: int, qmin: int, qmax: int) -> Expr:
    """Shift right, clamp to [qmin, qmax] and keep the low byte of each lane: int32x4 → int8x4.

    Saturating to int16 and then to int8 is clamping, and takes one instruction each with the shift inside. A larger
    shift would be a third one: a saturating shift to the top of the word (VQSHL) and one back down are two.
    """
    up = WORD_BITS - CODE_BITS - shift
    if shift > NARROWING_SHIFT_LIMIT and up >= 0 and (qmin, qmax) == (-128, 127):
        top = intrinsic("int32x4", "llvm.arm.mve.vqshl.imm", value, *_flags(up, 0))
        return cast(top >> (WORD_BITS - CODE_BITS), "int8")
    halves = _narrow_words(reinterpret(value, "int16x8"), value, shift, top=0)
    return cast(reinterpret(_clamp_halves(halves, qmin, qmax), "int32x4"), "int8")


def narrow_pair(even: Expr, odd: Expr, shift: int, qmin: int, qmax: int) -> Expr:
    """The same for the even and the odd lanes of a vector of eight: two int32x4 → int8x8."""
    halves = _narrow_words(reinterpret(even, "int16x8"), even, shift, top=0)
    halves = _narrow_words(halves, odd, shift, top=1)
    return cast(reinterpret(_clamp_halves(halves, qmin, qmax), "int16x8"), "int8")


def _narrow_words(into: Expr, value: Expr, shift: int, top: int) -> Expr:
    """Shift and saturate int32x4 into the even (top 0) or odd lanes of an int16x8: VQSHRNB or VQSHRNT."""
    last = min(shift, NARROWING_SHIFT_LIMIT)
    if last == 0:
        return intrinsic("int16x8", "llvm.arm.mve.vqmovn", into, value, *_flags(0, 0, top))
    saturate, rounded, unsigned_out, unsigned_in = 1, 0, 0, 0
    flags = _flags(last, saturate, rounded, unsigned_out, unsigned_in, top)
    return intrinsic("int16x8", "llvm.arm.mve.vshrn", into, value >> (shift - last), *flags)


def _clamp_halves(halves: Expr, qmin: int, qmax: int) -> Expr:
    """Saturate int16x8 to the low byte of each lane, as int8x16, and clamp: VQMOVNB, then VMAX and VMIN if needed."""
    codes = intrinsic("int8x16", "llvm.arm.mve.vqmovn", reinterpret(halves, "int8x16"), halves, *_flags(0, 0, 0))
    return clamp(codes, qmin, qmax) if qmin > -128 or qmax < 127 else codes


def mulhi(a: Expr, b: Expr) -> Expr:
    """High words of the products of four int32 lanes: VMULH.S32.

    LLVM also makes it of a 64-bit product, but not in a loop that one of the operands does not change in: it converts
    that operand outside, and then multiplies in 64 bits.
    """
    return intrinsic("int32x4", "llvm.arm.mve.vmulh", a, b, constant(0))


def mulhi_unsigned(a: Expr, b: Expr) -> Expr:
    """High bytes of the products of 16 unsigned lanes: VMULH.U8."""
    return intrinsic(f"int8x{LANES}", "llvm.arm.mve.vmulh", a, b, constant(1))


def dot(acc: Expr, codes: Expr, weights: Expr) -> Expr:
    """`acc` plus the sum of 16 products of int8 lanes: VMLADAVA.S8."""
    unsigned, subtract, exchange = 0, 0, 0
    flags = _flags(unsigned, subtract, exchange)
    return intrinsic("int32", "llvm.arm.mve.vmldava", *flags, acc, codes, weights)


def scatter(base: Expr, offsets: Expr, codes: Expr) -> None:
    """Store eight int8 lanes at eight unsigned 16-bit byte offsets from an address: VSTRB.16."""
    evaluate(call("int32", "mve_scatter_codes", base, offsets, codes))


def load_aligned(codes: Pointer, start: Operand) -> Expr:
    """Load 16 codes from an address that is a multiple of 4: VLDRW, which reaches four times as far as VLDRB.

    Not by a view as int32: TVM tells LLVM that constant indices that differ are different memory, whatever the type.
    """
    return let(call("int8x16", "mve_load_aligned", codes.address(start)))


def fill_vector(address: Expr, code: int) -> None:
    """Store 16 equal codes; LLVM may not make a call of memset of a loop of it."""
    evaluate(call("int32", "mve_fill", address, constant(code, f"int8x{LANES}")))


def same_memory(pointer: Pointer, other: Pointer) -> Expr:
    """The address of a parameter, of which LLVM no longer knows that it is not that of another parameter."""
    return let(call("handle", "mve_same_memory", pointer.address(0), other.address(0)))


def copy_vector(to: Expr, start: Expr, offset: Expr) -> None:
    """Copy 16 codes that lie `offset` bytes behind an address of `same_memory`."""
    evaluate(call("int32", "mve_copy", to, start, offset))


def trip_count(count: int) -> Operand:
    """A positive number of iterations that LLVM does not know: it makes a hardware loop and does not unroll."""
    return call("int32", "mve_trip_count", constant(count))


def _flags(*values: int) -> tuple[Expr, ...]:
    return tuple(constant(value) for value in values)
