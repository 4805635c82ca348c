"""Inner loops for Armv6-M as LLVM IR around assembly: runs of products and of table entries, and tables.

Assembly, because only 8 registers take part in arithmetic: sums wait in r8 to r12, where ADD still reaches them, and
LLVM would spill them. LDM brings the words of all lanes in one instruction, and MULS overwrites what was loaded.

A word holds the codes of one lane, or of two lanes 2**16 apart. One multiplication then serves both: everything is
linear modulo 2**32, so whatever carries from the low lane into the high one is taken back when the sum of the low lane
is known, and it is, if it fits int16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_WORDS = 5
"""Words of lanes: as many sums as high registers, without the link register, which holds the end of a loop."""
MAX_UNROLL = 16
"""Steps in one turn of a loop."""
BRANCH_INSTRUCTIONS = 120
"""How far back a conditional branch reaches."""
HALF = 1 << 15

_SUMS, _WEIGHT, _WORDS, _PACKED = [f"r{8 + i}" for i in range(MAX_WORDS)], "r5", "r6", "r7"


def unroll_of(count: int, limit: int = MAX_UNROLL) -> int:
    """The largest number up to `limit` that divides `count`."""
    return next(u for u in range(min(limit, count), 0, -1) if count % u == 0)


def multiply_ir(name: str, words: int, bits: int, runs: "Runs", wide: bool, max_unroll: int = MAX_UNROLL) -> str:
    """LLVM IR of `@name(ptr sums, ptr words, ptr packed, ptr start)`, which adds runs of products to sums.

    A byte holds 8 / bits unsigned weights. Shifting it down leaves the sum of one weight and what lies above it; the
    words in memory are differences that take the latter back: digit 0 has its code, digit k its code less 2**bits
    times that of digit k - 1.

    Parameters
    ----------
    name : str
    words : int
        Words of lanes in memory for each weight, and of sums; MAX_WORDS at most.
    bits : int
        8, 4 or 2.
    runs : Runs
        How many bytes of weights, and how often.
    wide : bool
        Sums of two lanes as two int32 a word, as `accumulate_lines` tells.
    max_unroll : int
        Weights in one turn of the loop.
    """
    unroll = unroll_of(runs.packed_bytes, max(1, max_unroll * bits // 8))
    lines = []
    for byte in range(unroll):
        lines.append(f"ldrb {_WEIGHT}, [{_PACKED}, #{byte}]")
        for digit in range(8 // bits):
            lines += [f"lsrs {_WEIGHT}, {_WEIGHT}, #{bits}"] if digit else []
            lines.append(f"ldm {_WORDS}!, {_low(words)}")
            lines += [f"muls r{i}, {_WEIGHT}, r{i}" for i in range(words)]
            lines += [f"add {_SUMS[i]}, r{i}" for i in range(words)]
    lines.append(f"adds {_PACKED}, #{unroll}")
    return _runs_ir(name, words, lines, runs, wide)


def lookup_ir(name: str, words: int, runs: "Runs", wide: bool) -> str:
    """LLVM IR of `@name(ptr sums, ptr tables, ptr packed, ptr start)`, which adds runs of table entries to sums.

    A weight of the run is a code of two bytes: the place of an entry behind `tables`. Parameters are those of
    `multiply_ir`.
    """
    unroll = unroll_of(runs.packed_bytes // 2)
    lines = []
    for i in range(unroll):
        lines += [f"ldrh r0, [{_PACKED}, #{2 * i}]", f"adds r0, {_WORDS}", f"ldm r0, {_low(words)}"]
        lines += [f"add {_SUMS[j]}, r{j}" for j in range(words)]
    lines.append(f"adds {_PACKED}, #{2 * unroll}")
    return _runs_ir(name, words, lines, runs, wide)


@dataclass(frozen=True)
class Runs:
    """The same words meet the weights of one channel after the other; the channels' sums lie side by side."""

    packed_bytes: int
    """Weights of one run."""
    pitch_bytes: int
    """From the weights of one channel to those of the next."""
    channels: int


def _runs_ir(name: str, words: int, body: Sequence[str], runs: Runs, wide: bool) -> str:
    """A loop over channels around the loop of a run; what does not fit registers waits on the stack."""
    lines = [
        "push {r0, r1, r2, r3, r4, r6}",  # start, sums, end of all weights, bytes of a run, bytes to the next, words
        ".Lchannel${:uid}:",
        *("ldr r0, [sp, #12]", f"adds r0, {_PACKED}", "mov lr, r0"),
        *("ldr r0, [sp, #0]", f"ldm r0!, {_low(words, 1)}"),
        *(f"mov {_SUMS[i]}, r{i + 1}" for i in range(words)),
        f"ldr {_WORDS}, [sp, #20]",
        *_loop(body),
        "ldr r6, [sp, #4]",
        *accumulate_lines(words, wide),
        "str r6, [sp, #4]",
    ]
    if runs.channels > 1:
        lines += ["ldr r0, [sp, #16]", f"adds {_PACKED}, r0", "ldr r0, [sp, #8]", f"cmp {_PACKED}, r0"]
        lines += branch_back("channel", len(lines))
    lines.append("add sp, #24")
    fixed = ("r0", "r1", "r2", "r3", "r4", _WORDS, _PACKED)
    free = ",".join(f"~{{{register}}}" for register in ("r5", *_SUMS, "lr"))
    outputs = ",".join(f"={{{register}}}" for register in fixed)
    tied = ",".join(str(i) for i in range(len(fixed)))
    return f"""
define i32 @{name}(ptr %sums, ptr %words, ptr %packed, ptr %start) {{
  %end = getelementptr i8, ptr %packed, i32 {runs.pitch_bytes * runs.channels}
  %free = call {{ ptr, ptr, ptr, i32, i32, ptr, ptr }} asm sideeffect "{asm_text(lines)}",
    "{outputs},{tied},{free},~{{memory}},~{{cc}}"(ptr %start, ptr %sums, ptr %end, i32 {runs.packed_bytes},
    i32 {runs.pitch_bytes - runs.packed_bytes}, ptr %words, ptr %packed)
  ret i32 0
}}
"""


def high_sums(words: int) -> list[str]:
    """Registers of the sums."""
    return _SUMS[:words]


def _loop(lines: Sequence[str]) -> list[str]:
    """Repeat until the weights of a run end."""
    return [".Lrun${:uid}:", *lines, f"cmp {_PACKED}, lr", *branch_back("run", len(lines))]


def branch_back(label: str, lines: int) -> list[str]:
    """Branch back while not equal; a long body takes an unconditional branch."""
    if lines <= BRANCH_INSTRUCTIONS:
        return [f"bne .L{label}${{:uid}}"]
    return [f"beq .L{label}_end${{:uid}}", f"b .L{label}${{:uid}}", f".L{label}_end${{:uid}}:"]


def accumulate_lines(words: int, wide: bool) -> list[str]:
    """Add the sums to those at r6, which moves on.

    `wide` sums are two int32 a word. The first adds whole words; the second adds their high halves, whose exact value
    an arithmetic shift gives because the start of every run has 2**15 in it.
    """
    load, store = f"ldm r6!, {_low(words)}", [f"subs r6, #{4 * words}", f"stm r6!, {_low(words)}"]
    lines = [load, *(f"add r{i}, {_SUMS[i]}" for i in range(words)), *store]
    if wide:
        lines.append(load)
        for i in range(words):
            lines += [f"mov {_WEIGHT}, {_SUMS[i]}", f"asrs {_WEIGHT}, {_WEIGHT}, #16", f"adds r{i}, {_WEIGHT}"]
        lines += store
    return lines


def depthwise_ir(name: str, words: int, offsets: Sequence[int]) -> str:
    """LLVM IR of `@name(ptr sums, ptr words, ptr weights)`, which stores `words` sums of few products.

    Parameters
    ----------
    name : str
    words : int
    offsets : sequence of int
        Bytes from `words` to the words of each tap; the taps' weights lie as int32 at `weights`.
    """
    lines, at = ["push {r0}"], 0
    for tap, offset in enumerate(offsets):
        lines += [*_move(_WORDS, offset - at), *_load_weight(tap), f"ldm {_WORDS}!, {_low(words)}"]
        lines += [f"muls r{i}, {_WEIGHT}, r{i}" for i in range(words)]
        lines += [f"{'add' if tap else 'mov'} {_SUMS[i]}, r{i}" for i in range(words)]
        at = offset + 4 * words
    lines += [f"pop {{{_PACKED}}}", *(f"mov r{i}, {_SUMS[i]}" for i in range(words)), f"stm {_PACKED}!, {_low(words)}"]
    free = ",".join(f"~{{{register}}}" for register in ("r1", "r2", "r3", "r4", "r5", *_SUMS))
    return f"""
define i32 @{name}(ptr %sums, ptr %words, ptr %weights) {{
  %free = call {{ ptr, ptr, ptr }} asm sideeffect "{asm_text(lines)}",
    "={{r0}},={{r6}},={{r7}},0,1,2,{free},~{{memory}},~{{cc}}"(ptr %sums, ptr %words, ptr %weights)
  ret i32 0
}}
"""


def _load_weight(tap: int) -> list[str]:
    """The weight of a tap; an offset reaches 31 words."""
    again = [f"adds {_PACKED}, #128"] if tap and tap % 32 == 0 else []
    return [*again, f"ldr {_WEIGHT}, [{_PACKED}, #{4 * (tap % 32)}]"]


def _move(register: str, distance: int) -> list[str]:
    """Add any number of bytes."""
    name, steps = ("adds" if distance > 0 else "subs"), []
    distance = abs(distance)
    while distance:
        steps.append(f"{name} {register}, #{min(distance, 252)}")
        distance -= min(distance, 252)
    return steps


def _low(words: int, first: int = 0) -> str:
    return "{" + ", ".join(f"r{first + i}" for i in range(words)) + "}"


def table_ir(name: str, words: int, levels: int, group: int) -> str:
    """LLVM IR of `@name(ptr table, ptr vectors)`, which writes levels**group entries of `words` words.

    `vectors` are the first entry, then what each digit adds when it steps up and all digits before it fall to 0.
    """
    lines = [f"ldm r6!, {_low(words)}"]
    for i in range(words):
        lines += [f"ldr r5, [r6, #{4 * i}]", f"mov {_SUMS[i]}, r5"]
    for entry in range(levels**group):
        lines += _step(words, _stepping_digit(entry, levels)) if entry else []
        lines.append(f"stm r7!, {_low(words)}")
    clobbers = ",".join(f"~{{r{i}}}" for i in (0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12))
    return f"""
define i32 @{name}(ptr %table, ptr %vectors) {{
  %free = call {{ ptr, ptr }} asm sideeffect "{asm_text(lines)}",
    "={{r6}},={{r7}},0,1,{clobbers},~{{memory}},~{{cc}}"(ptr %vectors, ptr %table)
  ret i32 0
}}
"""


def unpack_ir(name: str, base: int, digits: int, entry_bytes: int, table_bytes: int, tables: int) -> str:
    """LLVM IR of `@name(ptr codes, ptr fractions, ptr end)`, which writes codes of two bytes until `end`.

    A fraction is 24 bits whose first `digits` digits in base `base` are entries of as many tables; after `tables` of
    them the first table comes again. `entry_bytes` is a power of two.
    """
    lines = ["mov r8, r0", "mov r9, r2", ".Lfraction${:uid}:", "ldrb r0, [r6, #0]"]
    for byte in (1, 2):
        lines += [f"ldrb r2, [r6, #{byte}]", f"lsls r2, r2, #{8 * byte}", "adds r0, r2"]
    lines.append("adds r6, #3")
    for i in range(digits):
        lines += ["muls r0, r1, r0", "lsrs r2, r0, #24", "ands r0, r4", f"lsls r2, r2, #{entry_bytes.bit_length() - 1}"]
        lines += ["adds r2, r3", f"strh r2, [r5, #{2 * i}]", "add r3, r9", "cmp r3, r7"]
        lines += [f"bne .Lnext{i}_${{:uid}}", "movs r3, #0", f".Lnext{i}_${{:uid}}:"]
    lines += [f"adds r5, #{2 * digits}", "cmp r5, r8", "bne .Lfraction${:uid}"]
    fixed = [f"r{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7)]
    outputs, tied = ",".join(f"={{{r}}}" for r in fixed), ",".join(str(i) for i in range(len(fixed)))
    return f"""
define i32 @{name}(ptr %codes, ptr %fractions, ptr %end) {{
  %free = call {{ ptr, i32, i32, i32, i32, ptr, ptr, i32 }} asm sideeffect "{asm_text(lines)}",
    "{outputs},{tied},~{{r8}},~{{r9}},~{{memory}},~{{cc}}"(ptr %end, i32 {base}, i32 {table_bytes}, i32 0,
    i32 {(1 << 24) - 1}, ptr %codes, ptr %fractions, i32 {table_bytes * tables})
  ret i32 0
}}
"""


def _stepping_digit(entry: int, levels: int) -> int:
    """The digit that is one more than in the entry before."""
    digit = 0
    while entry % levels ** (digit + 1) == 0:
        digit += 1
    return digit


def _step(words: int, digit: int) -> list[str]:
    if digit == 0:
        return [f"add r{i}, {_SUMS[i]}" for i in range(words)]
    at = 4 * words * digit
    loads = [(f"ldr r5, [r6, #{at + 4 * i}]", f"adds r{i}, r5") for i in range(words)]
    return [line for pair in loads for line in pair]


def asm_text(lines: Sequence[str]) -> str:
    """Assembly as a string of LLVM IR."""
    return (chr(92) + "0A").join(lines)  # how LLVM IR writes a new line
