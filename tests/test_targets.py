"""Devices: every file loads, flags follow TVM's traps, faults are worded for a person."""

import pytest

from qkd.errors import InvariantError, RecipeError
from qkd.targets import load_target, parse_target, target_names


@pytest.mark.parametrize("name", target_names())
def test_every_device_loads_under_its_own_name(name: str) -> None:
    assert load_target(name).name == name


@pytest.mark.parametrize("name", target_names())
def test_a_triple_has_four_parts_or_tvm_picks_the_wrong_libcalls(name: str) -> None:
    parts = load_target(name).mtriple.split("-")
    assert len(parts) == 4
    assert "" not in parts


def test_only_the_host_runs_without_an_emulator() -> None:
    assert [n for n in target_names() if not load_target(n).emulator] == ["host"]


@pytest.mark.parametrize("name", [n for n in target_names() if load_target(n).kind == "cortex_m"])
def test_cortex_m_memories_do_not_overlap(name: str) -> None:
    target = load_target(name)
    assert target.flash_bytes is not None
    assert target.flash_origin + target.flash_bytes <= target.sram_origin


def test_aarch64_devices_keep_llvm_from_guessing_sve() -> None:
    assert all("-sve" in load_target(n).mattr for n in target_names() if load_target(n).kind == "aarch64")


def test_the_a76_and_i8mm_have_the_dot_product() -> None:
    assert [n for n in target_names() if "+dotprod" in load_target(n).mattr] == ["cortex_a76", "armv8_6_i8mm"]


def test_an_unknown_device_is_named_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no device 'cortex_m99'.*cortex_m4, cortex_m7"):
        load_target("cortex_m99")


def test_all_faults_of_a_device_file_are_reported_together() -> None:
    with pytest.raises(InvariantError, match=r"(?s)broken\.toml has .*kind.*mtriple.*colour"):
        parse_target('kind = "toaster"\nmtriple = "thumbv7em-none-eabi"\ncolour = "red"', "broken")


def test_a_device_file_that_is_not_toml_says_so() -> None:
    with pytest.raises(InvariantError, match=r"broken\.toml is not TOML"):
        parse_target("kind = ", "broken")


def test_a_cortex_m_without_a_memory_map_is_refused() -> None:
    text = (
        'kind = "cortex_m"\ninstruction_set = "armv7e-m"\ndescription = ""\nmcpu = "cortex-m4"\n'
        'mtriple = "thumbv7em-unknown-none-eabi"\ncompiler = "arm-none-eabi-gcc"'
    )
    with pytest.raises(InvariantError, match="needs flash_bytes, sram_bytes and float_abi"):
        parse_target(text, "broken")
