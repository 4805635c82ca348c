"""Build the portable C sources of a graph with the host's compiler and run them under the sanitizers."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkd.bundle.header import c_header
from qkd.bundle.portable_c import portable_sources
from qkd.graph.graph import QuantGraph

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Wshadow", "-Wmissing-prototypes")
SANITIZERS = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")

# The arena is exactly as large as the header says, so that the address sanitizer sees a byte too many.
HARNESS = r"""
#define _POSIX_C_SOURCE 200112L
#include "{name}.h"
#include <stdio.h>
#include <stdlib.h>

static void dump(void *user, int32_t layer, int32_t begin) {{
  (void)layer;
  if (begin == 0) fwrite(user, 1, {NAME}_ARENA_BYTES, stdout);
}}

int main(void) {{
  static int8_t input[{NAME}_INPUT_BYTES];
  static {output_type} output[{NAME}_OUTPUT_COUNT];
  {name}_context context;
  void *arena = NULL;
  if (posix_memalign(&arena, {NAME}_ARENA_ALIGN, {NAME}_ARENA_BYTES) != 0) return 2;
  for (int i = 0; i < {NAME}_ARENA_BYTES; i++) ((uint8_t *)arena)[i] = 0x5a;
  if ({name}_init(&context, arena, {NAME}_ARENA_BYTES) != {NAME}_OK) return 3;
  context.hook = dump;
  context.user = arena;
  while (fread(input, 1, sizeof input, stdin) == sizeof input) {{
    if ({name}_run(&context, input, output) != {NAME}_OK) return 4;
    fwrite(output, 1, sizeof output, stdout);
  }}
  free(arena);
  return 0;
}}
"""


@dataclass(frozen=True)
class TwinRun:
    """What the sources computed: outputs (N, ...) and the activations in the arena after the layer that wrote them."""

    output: NDArray[np.int8] | NDArray[np.int32]
    layers: dict[str, NDArray[np.int8]]


def write_sources(folder: Path, graph: QuantGraph) -> list[Path]:
    """Header and sources of a planned graph; returns the .c files."""
    (folder / f"{graph.name}.h").write_text(c_header(graph.name, graph, None, None))
    for file, text in portable_sources(graph.name, graph).items():
        (folder / file).write_text(text)
    return sorted(folder.glob("*.c"))


def run_twin(folder: Path, graph: QuantGraph, inputs: NDArray[np.int8]) -> TwinRun:
    """Compile with every warning an error and both sanitizers, then run all inputs."""
    sources = write_sources(folder, graph)
    subprocess.run(["gcc", *STRICT, "-c", *map(str, sources)], cwd=folder, check=True)
    output = graph.values[graph.outputs[0]]
    harness = folder / "harness.c"
    names = {"name": graph.name, "NAME": graph.name.upper(), "output_type": f"{output.dtype}_t"}
    harness.write_text(HARNESS.format(**names))
    program = folder / "harness"
    subprocess.run(["gcc", "-O1", "-g", *SANITIZERS, *map(str, sources), str(harness), "-o", str(program)], check=True)
    done = subprocess.run([program], input=inputs.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return _parse(graph, done.stdout, len(inputs))


def _parse(graph: QuantGraph, dump: bytes, count: int) -> TwinRun:
    """`dump` holds, for each input, the arena after every layer and then the output."""
    names = [op.output for op in graph.ops if graph.storage(op.output) == op.output]
    arena_bytes = max(graph.arena_bytes or 0, 16)
    output = graph.values[graph.outputs[0]]
    records = np.frombuffer(dump, np.uint8).reshape(count, len(names) * arena_bytes + output.buffer_bytes)
    layers = {}
    for index, name in enumerate(names):
        if name != graph.storage(graph.outputs[0]):  # that one is in the caller's buffer
            at = index * arena_bytes + graph.offsets[name]
            value = graph.values[name]
            codes = np.ascontiguousarray(records[:, at : at + value.buffer_bytes]).view(np.int8)
            layers[name] = codes.reshape(count, *value.shape[1:])
    outputs = np.ascontiguousarray(records[:, -output.buffer_bytes :]).view(output.dtype)
    return TwinRun(outputs.reshape(count, *output.shape[1:]), layers)
