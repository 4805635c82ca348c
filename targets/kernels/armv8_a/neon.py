"""NEON for kernels: functions that become one instruction each, under their names in Arm's manual."""

from collections.abc import Sequence

from qkd.tir.tir import (
    Expr,
    Operand,
    Pointer,
    array,
    call,
    constant,
    evaluate,
    high_half,
    intrinsic,
    lane,
    let,
    low_half,
    reinterpret,
    shuffle,
    split_dtype,
)

PRELUDE = """
%four = type { <16 x i8>, <16 x i8>, <16 x i8>, <16 x i8> }
declare %four @llvm.aarch64.neon.ld4r.v16i8.p0(ptr)
define ptr @qkd_ld4r(ptr %from, ptr %to) {
  %all = call %four @llvm.aarch64.neon.ld4r.v16i8.p0(ptr %from)
  %v0 = extractvalue %four %all, 0
  %v1 = extractvalue %four %all, 1
  %v2 = extractvalue %four %all, 2
  %v3 = extractvalue %four %all, 3
  %to1 = getelementptr i8, ptr %to, i64 16
  %to2 = getelementptr i8, ptr %to, i64 32
  %to3 = getelementptr i8, ptr %to, i64 48
  store <16 x i8> %v0, ptr %to
  store <16 x i8> %v1, ptr %to1
  store <16 x i8> %v2, ptr %to2
  store <16 x i8> %v3, ptr %to3
  %next = getelementptr i8, ptr %from, i64 4
  %hidden = call ptr asm "", "=r,0"(ptr %next)
  ret ptr %hidden
}
define ptr @qkd_opaque_address(ptr %address) {
  %same = call ptr asm "", "=r,0"(ptr %address)
  ret ptr %same
}
declare void @llvm.aarch64.neon.st4.v4i32.p0(<4 x i32>, <4 x i32>, <4 x i32>, <4 x i32>, ptr)
define i32 @qkd_st4(<4 x i32> %a, <4 x i32> %b, <4 x i32> %c, <4 x i32> %d, ptr %to) {
  call void @llvm.aarch64.neon.st4.v4i32.p0(<4 x i32> %a, <4 x i32> %b, <4 x i32> %c, <4 x i32> %d, ptr %to)
  ret i32 0
}
define i32 @qkd_store_word(ptr %to, i32 %word) {
  store i32 %word, ptr %to, align 1
  ret i32 0
}
define <4 x i32> @qkd_pin_int32x4(<4 x i32> %value) {
  %same = call <4 x i32> asm sideeffect "", "=w,0,~{memory}"(<4 x i32> %value)
  ret <4 x i32> %same
}
define <8 x i16> @qkd_pin_int16x8(<8 x i16> %value) {
  %same = call <8 x i16> asm sideeffect "", "=w,0,~{memory}"(<8 x i16> %value)
  ret <8 x i16> %same
}
define i32 @qkd_forget_loads() {
  call void asm sideeffect "", "~{memory}"()
  ret i32 0
}
"""
"""LD4R gives four vectors, for which TIR has no type: they go through an array that LLVM keeps in registers.
The address behind is hidden, so that LLVM takes it from LD4R's post-increment instead of adding to a common base."""


def smull(a: Expr, b: Expr) -> Expr:
    """SMULL: lanes of twice the width, each the product of two lanes."""
    wide = {"int8x8": "int16x8", "int16x4": "int32x4"}[a.dtype]
    return intrinsic(wide, "llvm.aarch64.neon.smull", a, b)


def multiply_add(acc: Expr, a: Expr, b: Expr) -> Expr:
    """SMLAL and SMLAL2: int16 lane i of `acc` plus the products of lanes i and i + 8 of two int8x16; lanes wrap."""
    return acc + smull(low_half(a), low_half(b)) + smull(high_half(a), high_half(b))


def saddlp(a: Expr) -> Expr:
    """SADDLP, or SADALP where it is added: sums of neighbouring int16 lanes as int32."""
    return intrinsic("int32x4", "llvm.aarch64.neon.saddlp", a)


def addp(a: Expr, b: Expr) -> Expr:
    """ADDP: sums of neighbouring lanes, those of `a` first."""
    return intrinsic(a.dtype, "llvm.aarch64.neon.addp", a, b)


def shadd(a: Expr, b: Expr) -> Expr:
    """SHADD: half the sum of signed lanes, rounded down; the carry is not lost."""
    return intrinsic(a.dtype, "llvm.aarch64.neon.shadd", a, b)


def shsub(a: Expr, b: Expr) -> Expr:
    """SHSUB: half the difference of signed lanes, rounded down; the borrow is not lost."""
    return intrinsic(a.dtype, "llvm.aarch64.neon.shsub", a, b)


def sdot(acc: Expr, a: Expr, b: Expr) -> Expr:
    """SDOT: each int32 lane plus four products of int8 (Armv8.2 dot product)."""
    return intrinsic("int32x4", "llvm.aarch64.neon.sdot", acc, a, b)


def sdot_by_element(acc: Expr, a: Expr, b: Expr, word: int) -> Expr:
    """SDOT with one word of `b`, four int8, for every lane."""
    words = shuffle((reinterpret(b, "int32x4"),), (word,) * 4)
    return sdot(acc, a, reinterpret(words, "int8x16"))


def smmla(acc: Expr, a: Expr, b: Expr) -> Expr:
    """SMMLA: a 2x2 matrix of int32 plus `a`, 2x8 int8, times the transpose of `b`, 2x8 (Armv8.6 i8mm)."""
    return intrinsic("int32x4", "llvm.aarch64.neon.smmla", acc, a, b)


def sqdmulh(a: Expr, b: Expr) -> Expr:
    """SQDMULH: high word of twice the product, not rounded."""
    return intrinsic(a.dtype, "llvm.aarch64.neon.sqdmulh", a, b)


def sqshrn(a: Expr, shift: int) -> Expr:
    """SQSHRN: int32x4 shifted right and saturated to int16x4."""
    return intrinsic("int16x4", "llvm.aarch64.neon.sqshrn", a, constant(shift))


def addhn(a: Expr, b: Expr) -> Expr:
    """ADDHN: the high halves of the sums of int32 lanes; carries out of the top are lost."""
    return intrinsic("int16x4", "llvm.aarch64.neon.addhn", a, b)


def sqshrn_bytes(a: Expr, shift: int) -> Expr:
    """SQSHRN: int16x8 shifted right and saturated to int8x8."""
    return intrinsic("int8x8", "llvm.aarch64.neon.sqshrn", a, constant(shift)) if shift else sqxtn(a)


def sqshrun_bytes(a: Expr, shift: int) -> Expr:
    """SQSHRUN: int16x8 shifted right and saturated to unsigned 8 bits, so negative numbers become 0."""
    if shift == 0:
        return intrinsic("int8x8", "llvm.aarch64.neon.sqxtun", a)
    return intrinsic("int8x8", "llvm.aarch64.neon.sqshrun", a, constant(shift))


def sqxtn(a: Expr) -> Expr:
    """SQXTN: int16x8 saturated to int8x8."""
    return intrinsic("int8x8", "llvm.aarch64.neon.sqxtn", a)


def umin(a: Expr, b: Expr) -> Expr:
    """UMIN: the smaller of unsigned lanes."""
    return intrinsic(a.dtype, "llvm.aarch64.neon.umin", a, b)


def hidden_address(memory: Pointer, index: Operand) -> Expr:
    """The address of an element, which LLVM cannot relate to others."""
    return let(call("handle", "qkd_opaque_address", memory.address(index)))


def ld4r(address: Expr) -> tuple[tuple[Expr, ...], Expr]:
    """LD4R: four consecutive bytes, each in all lanes of a vector of its own; and the address behind them."""
    four = array("int8", 64)
    behind = let(call("handle", "qkd_ld4r", address, four.address(0)))
    return tuple(four.load(16 * i, 16) for i in range(4)), behind


def st4(memory: Pointer, index: Operand, vectors: Sequence[Expr]) -> None:
    """ST4: the first words of four vectors side by side, then their second words, and so on."""
    words = (reinterpret(v, "int32x4") for v in vectors)
    evaluate(call("int32", "qkd_st4", *words, memory.address(index)))


def hide(index: Expr) -> Expr:
    """An index that LLVM cannot take apart: what is added to it stays small enough for LDP and STP."""
    return let(call("int32", "qkd_opaque", index))


def forget_loads() -> None:
    """Keep LLVM from moving loads over this point: out of a loop they would only be spilled."""
    evaluate(call("int32", "qkd_forget_loads"))


def pin(value: Expr) -> Expr:
    """Keep LLVM's scheduler from computing `value` later, and loads from moving over this point: both cost spills."""
    return call(value.dtype, f"qkd_pin_{value.dtype}", value)


def store_word(memory: Pointer, index: Operand, codes: Expr, word: int) -> None:
    """Store lanes 4 * word … 4 * word + 3 of int8 codes; the address needs no alignment."""
    words = reinterpret(codes, f"int32x{lanes_of(codes) // 4}")
    evaluate(call("int32", "qkd_store_word", memory.address(index), lane(words, word)))


def lanes_of(value: Expr) -> int:
    """Lanes of a vector."""
    return split_dtype(value.dtype)[1]


def concatenate(vectors: Sequence[Expr]) -> Expr:
    """Join vectors, two at a time, to one."""
    while len(vectors) > 1:
        lanes = range(2 * lanes_of(vectors[0]))
        vectors = [shuffle(vectors[i : i + 2], lanes) for i in range(0, len(vectors), 2)]
    return vectors[0]


def total(terms: Sequence[Expr]) -> Expr:
    """The sum of some values, in order."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def sum_lanes(rows: Sequence[Expr]) -> Expr:
    """One int32 lane for each of four int32x4: the sum of its lanes."""
    return addp(addp(rows[0], rows[1]), addp(rows[2], rows[3]))
