"""Hashes see what a user may change between two runs, and only that."""

import importlib
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from qkd.train.digests import network_sha256

BASE = "import torch\nclass Base(torch.nn.Module):\n    def forward(self, x): return torch.{0}(x)\n"
LEAF = "from user_base import Base\nimport user_helper\nclass Leaf(Base):\n    pass\n"


class Scaled(nn.Module):
    """Its factor is in no tensor and in no repr."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor


def test_plain_attributes_count_and_the_mode_does_not() -> None:
    assert network_sha256(Scaled(1.0)) == network_sha256(Scaled(1.0).eval())
    assert network_sha256(Scaled(1.0)) != network_sha256(Scaled(9.0))


@pytest.mark.parametrize("edited", ["user_base", "user_helper", "unrelated"])
def test_what_a_user_s_class_inherits_from_or_imports_counts(
    edited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    files = {"user_base": BASE.format("relu"), "user_leaf": LEAF, "user_helper": "SLOPE = 1\n", "unrelated": "A = 1\n"}
    before = hash_of(tmp_path, files)
    after = hash_of(tmp_path, files | {edited: files[edited].replace("relu", "tanh").replace("= 1", "= 23")})
    assert (before == after) == (edited == "unrelated")


def hash_of(folder: Path, files: dict[str, str]) -> str:
    """Of the network in user_leaf, as a new process would find the files."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    try:
        return network_sha256(importlib.import_module("user_leaf").Leaf())
    finally:
        for name in files:
            sys.modules.pop(name, None)


class Edited(torch.nn.Module):
    """A user's network."""


def test_the_hash_of_a_network_sees_its_structure_and_its_own_source(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = torch.nn.Conv2d(1, 1, 3)
    with_relu, with_gelu = (torch.nn.Sequential(conv, act) for act in (torch.nn.ReLU(), torch.nn.GELU()))
    assert network_sha256(with_relu) != network_sha256(with_gelu)
    strided = torch.nn.Conv2d(1, 1, 3, stride=2)
    strided.load_state_dict(conv.state_dict())
    assert network_sha256(strided) != network_sha256(conv)
    before = network_sha256(Edited())
    monkeypatch.setattr(inspect, "getsource", lambda _: "another forward")
    assert network_sha256(Edited()) != before
    assert network_sha256(with_relu) == network_sha256(torch.nn.Sequential(conv, torch.nn.ReLU()))
