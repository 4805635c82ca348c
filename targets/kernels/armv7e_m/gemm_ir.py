"""The inner loop of an SMLAD tile as LLVM IR around assembly: output pixels × columns of channels, quad after quad.

Assembly, because a tile of 2 × 2 needs all 14 registers, and LLVM spills some of them in every turn of the loop.
"""

from qkd.targets.kernels.armv7e_m.shared_lanes import SharedLanes, Weights

REGISTERS = 14
"""r0 to r12 and lr."""


def registers_needed(pixels: int, columns: int, weights: Weights) -> int:
    """Registers of a tile: accumulators, a quad of each pixel, a word and a pair of weights, three pointers, a mask."""
    return pixels * columns + 2 * pixels + 2 + 3 + (weights.bits < 8)


def multiply_ir(tile: tuple[int, int, int], weights: Weights, turns: int, pixel_bytes: int) -> str:
    """LLVM IR of `@armv7e_m_multiply(ptr acc, ptr codes, ptr packed, i32 mask)`, which adds a run of products.

    Parameters
    ----------
    tile : (pixels, columns, quads)
        `acc` holds pixels × columns int32, a column being one channel or two that share lanes, and behind them the sums
        of the first channels of two; a turn of the loop takes `quads` quads.
    weights : WeightFormat or SharedLanes
    turns : int
        Turns of the loop.
    pixel_bytes : int
        From the expanded codes of one pixel of the tile to those of the next.
    """
    pixels, columns, quads = tile
    sums, free, masks = pixels * columns, 2 * pixels + 2, int(weights.bits < 8)
    # Operands in the order of LLVM: sums, free registers, codes and packed are written; end and mask are only read.
    names = [f"${i}" for i in range(sums + free + 3 + masks)]
    written = ["=&r"] * (sums + free + 2)
    read = ["r"] * (1 + masks)
    tied = [str(i) for i in (*range(sums), sums + free, sums + free + 1)]
    constraints = ",".join([*written, *read, *tied, "~{memory}", "~{cc}"])
    values = ["%end", *["%mask"] * masks, *(f"%old_{i}" for i in range(sums)), "%codes_at", "%packed_at"]
    results = "{ " + ", ".join(["i32"] * len(written)) + " }"
    text = "\\0A".join(_Loop(tile, weights, pixel_bytes, names[:sums], names[sums:]).lines())
    return f"""
define i32 @armv7e_m_multiply(ptr %acc, ptr %codes, ptr %packed, i32 %mask) {{
  %codes_at = ptrtoint ptr %codes to i32
  %packed_at = ptrtoint ptr %packed to i32
  %end = add i32 %codes_at, {8 * quads * turns}
{_each(sums, "%at_# = getelementptr i32, ptr %acc, i32 #", "%old_# = load i32, ptr %at_#, align 4")}
  %new = call {results} asm "{text}", "{constraints}"({", ".join(f"i32 {value}" for value in values)})
{_each(sums, f"%new_# = extractvalue {results} %new, #", "store i32 %new_#, ptr %at_#, align 4")}
{_split(sums, weights)}
  ret i32 0
}}
"""


def _each(count: int, *templates: str) -> str:
    """Lines for 0 … count - 1, which stands where a template has #."""
    return "\n".join("  " + template.replace("#", str(i)) for i in range(count) for template in templates)


def _split(sums: int, weights: Weights) -> str:
    """Add what the lower field gained to the sums of the first channels, before it can run over."""
    if not isinstance(weights, SharedLanes):
        return ""
    return _each(
        sums,
        f"%low_at_# = getelementptr i32, ptr %at_#, i32 {sums}",
        "%low_# = load i32, ptr %low_at_#, align 4",
        "%gain_# = sub i32 %new_#, %low_#",
        f"%field_# = and i32 %gain_#, {weights.field_mask}",
        "%sum_# = add i32 %low_#, %field_#",
        "store i32 %sum_#, ptr %low_at_#, align 4",
    )


class _Loop:
    """Assembly of the loop; operands are accumulators, free registers, codes, packed, end and the mask."""

    def __init__(self, tile: tuple[int, int, int], weights: Weights, pixel_bytes: int,
                 accumulators: list[str], names: list[str]) -> None:  # fmt: skip
        self.pixels, self.columns, self.quads = tile
        self.weights, self.pixel_bytes, self.accumulators = weights, pixel_bytes, accumulators
        *self.pairs, self.word, self.weight = names[: 2 * self.pixels + 2]
        self.codes, self.packed, self.end, *mask = names[2 * self.pixels + 2 :]
        self.mask = mask[0] if mask else ""

    def lines(self) -> list[str]:
        """The whole loop."""
        lines, field = [".Lmultiply${:uid}:"], 0
        for quad in range(self.quads):
            lines += self._load_codes(quad)
            for column in range(self.columns):
                for half in range(2):
                    if field % self.weights.pairs_per_word == 0:
                        lines.append(f"ldr {self.word}, [{self.packed}], #4")
                    place = field % self.weights.pairs_per_word
                    lines.append(self.weights.unpack_line(self.weight, self.mask, self.word, place))
                    for pixel in range(self.pixels):
                        total = self.accumulators[pixel * self.columns + column]
                        lines.append(f"smlad {total}, {self.pairs[2 * pixel + half]}, {self.weight}, {total}")
                    field += 1
        return [*lines, f"cmp {self.codes}, {self.end}", "bne .Lmultiply${:uid}"]

    def _load_codes(self, quad: int) -> list[str]:
        """The last pixel's load moves the pointer in the last quad; the others come first."""
        lines = []
        for pixel in reversed(range(self.pixels)):
            at = 8 * quad + pixel * self.pixel_bytes
            low, high = self.pairs[2 * pixel : 2 * pixel + 2]
            lines.append(f"ldrd {low}, {high}, [{self.codes}, #{at}]")
        if quad == self.quads - 1:
            lines.append(f"add {self.codes}, {self.codes}, #{8 * self.quads}")
        return lines
