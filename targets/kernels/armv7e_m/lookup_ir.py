"""The inner loop of ternary lookup as LLVM IR around assembly: eight sums, four codes a word, a table at a time.

Assembly, because the loop needs all 14 registers: LLVM takes the sum of table and code apart to use addressing modes,
and spills half of the sums.
"""

UNROLLS = (3, 2, 1)
SUMS = tuple(f"r{i}" for i in range(4, 12))
"""Registers of the sums of 4 output channels × 4 pixels, two int16 each."""

WORD, CODES, TABLES, END, LOW, HIGH = (f"${i}" for i in range(6))
"""Operands: the address of the sums, then a word of codes; next codes; next table; end of the tables; an entry."""


def lookup_ir(table_bytes: int, tables: int, wide: bool) -> str:
    """LLVM IR of `@armv7e_m_lookup(ptr sums, ptr codes, ptr tables)`, which adds the entries of a run of tables.

    Parameters
    ----------
    table_bytes : int
        From one table to the next.
    tables : int
        Tables of the run, and words of codes.
    wide : bool
        The sums in memory are 16 int32 instead of 8 pairs of int16.
    """
    before = [f"mov {register}, #0" for register in SUMS] if wide else [f"ldm {WORD}, {{r4-r11}}"]
    after = _widen_and_add() if wide else [f"stm {WORD}, {{r4-r11}}"]
    lines = [f"push {{{WORD}}}", *before, *_loop(table_bytes, tables), f"pop {{{WORD}}}", *after]
    newline = chr(92) + "0A"  # how LLVM IR writes it
    clobbers = ",".join(f"~{{{register}}}" for register in (*SUMS, "memory", "cc"))
    return f"""
define i32 @armv7e_m_lookup(ptr %sums, ptr %codes, ptr %tables) {{
  %end = getelementptr i8, ptr %tables, i32 {table_bytes * tables}
  %free = call {{ ptr, ptr, ptr, ptr, i32, i32 }} asm sideeffect "{newline.join(lines)}",
    "=&r,=&r,=&r,=&r,=&r,=&r,0,1,2,3,{clobbers}"(ptr %sums, ptr %codes, ptr %tables, ptr %end)
  ret i32 0
}}
"""


def _loop(table_bytes: int, tables: int) -> list[str]:
    unroll = next(u for u in UNROLLS if tables % u == 0)
    lines = [".Llookup${:uid}:"]
    for step in range(unroll):
        lines.append(f"ldr {WORD}, [{CODES}], #4")
        for channel in range(4):
            low, high = SUMS[2 * channel], SUMS[2 * channel + 1]
            lines += [
                _place(channel),
                f"ldrd {LOW}, {HIGH}, [{LOW}, #{step * table_bytes}]",
                f"qadd16 {low}, {low}, {LOW}",
                f"qadd16 {high}, {high}, {HIGH}",
            ]
    return [*lines, f"add {TABLES}, {TABLES}, #{unroll * table_bytes}", f"cmp {TABLES}, {END}", "bne .Llookup${:uid}"]


def _place(channel: int) -> str:
    """Address of the entry that a byte of the codes names."""
    if channel == 3:
        return f"add {LOW}, {TABLES}, {WORD}, lsr #24"
    return f"uxtab {LOW}, {TABLES}, {WORD}" + (f", ror #{8 * channel}" if channel else "")


def _widen_and_add() -> list[str]:
    lines = []
    for register in SUMS:
        lines += [
            f"ldrd {LOW}, {HIGH}, [{WORD}]",
            f"sxtah {LOW}, {LOW}, {register}",
            f"add {HIGH}, {HIGH}, {register}, asr #16",
            f"strd {LOW}, {HIGH}, [{WORD}], #8",
        ]
    return lines
