"""A library of hand-written C with the model's API: runners are tested without TVM, on models that misbehave too."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks.random_graphs import RandomGraph
from qkd.bundle.header import c_header
from qkd.bundle.portable_c import portable_sources
from qkd.graph.graph import QuantGraph
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.running.image import BARE_METAL_CFLAGS
from qkd.targets.running.toolchain import install_hint, missing_tools

if TYPE_CHECKING:
    from qkd.lower.lower import Library

SOURCE = r"""
#include "stub.h"

int32_t stub_init(stub_context *context, void *arena, uint32_t arena_bytes) {
  if (arena == 0 || ((uintptr_t)arena & 15) != 0) return -1;
  if (arena_bytes < STUB_ARENA_BYTES) return -2;
  *context = (stub_context){arena, 0, 0};
  return 0;
}

const stub_information *stub_info(void) {
  static const stub_information information = {.arena_bytes = STUB_ARENA_BYTES};
  return &information;
}

static __attribute__((noinline)) void first(uint8_t *to, const int8_t *from) {
  for (int i = 0; i < STUB_INPUT_BYTES; i++) to[i] = (uint8_t)from[i];
}

static __attribute__((noinline)) void misbehave(stub_context *context, int8_t *output) {
  (void)context, (void)output;
  %s
}

static __attribute__((noinline)) void second(int8_t *to, const uint8_t *from) {
  for (int i = 0; i < STUB_OUTPUT_COUNT; i++) to[i] = (int8_t)from[i];
}

int32_t stub_run(stub_context *context, const int8_t *input, int8_t *output) {
  if (context->hook) context->hook(context->user, 0, 1);
  first(context->arena, input);
  if (context->hook) context->hook(context->user, 0, 0);
  if (context->hook) context->hook(context->user, 1, 1);
  misbehave(context, output);
  second(output, context->arena);
  if (context->hook) context->hook(context->user, 1, 0);
  return 0;
}
"""


@dataclass(frozen=True, eq=False)
class StubLibrary:
    """What runners need of a Library."""

    name: str
    target: Target
    graph: QuantGraph
    objects: tuple[tuple[str, bytes], ...]


def stub_graph() -> QuantGraph:
    """Two layers that copy: pools over one element."""
    g = RandomGraph(0, (5, 3, 3), name="stub")
    between = g.max_pool(g.input, (1, 1), (1, 1))
    graph = g.build(g.max_pool(between, (1, 1), (1, 1)))
    return graph.with_plan({between: 0}, {}, graph.values[between].elements)


def stub_library(target: Target, misbehaviour: str = "") -> Library:
    """The stub for a device; `misbehaviour` is C that runs in the second layer."""
    return c_library(target, stub_graph(), {"stub.c": SOURCE.replace("%s", misbehaviour)})


def portable_library(target: Target, graph: QuantGraph) -> Library:
    """The portable C sources of a planned graph, compiled for a device."""
    return c_library(target, graph, portable_sources(graph.name, graph))


def c_library(target: Target, graph: QuantGraph, sources: dict[str, str]) -> Library:
    """Compile C sources with the device's compiler."""
    flags = BARE_METAL_CFLAGS if target.kind == "cortex_m" else ("-fPIC",)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in {f"{graph.name}.h": c_header(graph.name, graph, None, None), **sources}.items():
            (folder / file).write_text(text)
        files = [file for file in sources if file.endswith(".c")]
        command = [target.compiler, *target.cflags, *flags, "-std=c11", "-O2", "-I", ".", "-c", *files]
        subprocess.run(command, cwd=folder, check=True)
        objects = tuple((f"{Path(f).stem}.o", (folder / f).with_suffix(".o").read_bytes()) for f in files)
    return cast("Library", StubLibrary(graph.name, target, graph, objects))


def device_or_skip(name: str) -> Target:
    """The device, or a skip that says what to install."""
    target = load_target(name)
    missing = missing_tools(target)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: {install_hint(missing)}")
    return target
