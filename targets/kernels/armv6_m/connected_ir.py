"""Inner loops of fully connected layers on Armv6-M as LLVM IR around assembly: a few channels meet each code once.

Nothing is computed twice at batch 1, so what counts is instructions a weight. Four codes wait in registers, and either
8-bit weights come as bytes, or a word holds weights of channels in pairs 2**16 apart, so that one AND takes out two
weights and one multiplication serves both.
"""

from dataclasses import dataclass

from qkd.targets.kernels.armv6_m.assembly import accumulate_lines, asm_text, branch_back, high_sums

TAPS = 4
"""Codes in registers."""


@dataclass(frozen=True)
class Tile:
    """Sums in registers: of one channel each, or of two where weights are paired."""

    bits: int
    sums: int

    @property
    def paired(self) -> bool:
        """Two channels a sum."""
        return self.bits < 8

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.sums * (2 if self.paired else 1)

    @property
    def zero(self) -> int:
        """What the weight 0 is."""
        return 1 << (self.bits - 1)

    @property
    def block_bytes(self) -> int:
        """Weights of four codes."""
        return TAPS * self.channels * self.bits // 8

    @property
    def mask(self) -> int:
        """Keeps one weight of a pair of channels."""
        return ((1 << self.bits) - 1) * 0x10001


def dot_ir(name: str, tile: Tile, taps: int, wide: bool) -> str:
    """LLVM IR of `@name(ptr sums, ptr codes, ptr packed, ptr start)`, which adds the products of `taps` codes.

    `codes` are int32, a multiple of four; the sums start at `start`; `wide` is that of `accumulate_lines`.
    """
    lines = _paired(tile) if tile.paired else _bytes(tile)
    body = ["push {r1}", "mov lr, r2"]
    for i, register in enumerate(high_sums(tile.sums)):
        body += [f"ldr r5, [r0, #{4 * i}]", f"mov {register}, r5"]
    body += ["mov r12, r6", "mov r6, r3"] if tile.paired else []
    body += [".Ldot${:uid}:", *lines, "cmp r7, lr", *branch_back("dot", len(lines)), "pop {r6}"]
    body += accumulate_lines(tile.sums, wide)
    free = ",".join(f"~{{{register}}}" for register in ("r4", "r5", "r8", "r9", "r10", "r11", "r12", "lr"))
    return f"""
define i32 @{name}(ptr %sums, ptr %codes, ptr %packed, ptr %start) {{
  %end = getelementptr i8, ptr %packed, i32 {tile.block_bytes * taps // TAPS}
  %free = call {{ ptr, ptr, ptr, i32, ptr, ptr }} asm sideeffect "{asm_text(body)}",
    "={{r0}},={{r1}},={{r2}},={{r3}},={{r6}},={{r7}},0,1,2,3,4,5,{free},~{{memory}},~{{cc}}"(ptr %start, ptr %sums,
    ptr %end, i32 {tile.mask}, ptr %codes, ptr %packed)
  ret i32 0
}}
"""


def _bytes(tile: Tile) -> list[str]:
    """Four codes times bytes, channel after channel."""
    lines = ["ldm r6!, {r0, r1, r2, r3}"]
    for i in range(tile.sums):
        for tap in range(TAPS):
            lines += [f"ldrb r5, [r7, #{TAPS * i + tap}]", f"muls r5, r{tap}, r5", f"add {high_sums(tile.sums)[i]}, r5"]
    return [*lines, f"adds r7, #{tile.block_bytes}"]


def _paired(tile: Tile) -> list[str]:
    """Four codes times pairs of weights; the mask is in r6, so the place of the codes waits in r12."""
    lines = ["mov r5, r12", "ldm r5!, {r0, r1, r2, r3}", "mov r12, r5"]
    for i in range(tile.sums):
        place = TAPS * tile.bits * i % 16
        lines += [] if place else ["ldm r7!, {r4}"]
        for tap in range(TAPS):
            shift = place + tile.bits * tap
            lines += [f"lsrs r5, r4, #{shift}" if shift else "movs r5, r4", "ands r5, r6"]
            lines += [f"muls r5, r{tap}, r5", f"add {high_sums(tile.sums)[i]}, r5"]
    return lines
