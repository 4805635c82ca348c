"""Two ranks of torchrun give the weights of one process at the same global batch, to 1e-5 after 50 steps."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qkd import parallel
from qkd.errors import RecipeError
from qkd.passes.co_study import CoStudy
from qkd.passes.pretrain import Pretrain
from qkd.passes.quantize import Quantize
from qkd.state import Session, TrainState
from tests.networks import tiny_state

EPOCHS = 17  # of 3 steps


def trained() -> TrainState:
    """51 float steps: rounding would turn a last bit into a whole code."""
    return Pretrain("student", EPOCHS)(tiny_state())


def worker(folder: Path) -> None:
    """What each rank does: train, check that it agrees with the others, and keep the first one's weights."""
    torch.set_num_threads(1)
    parallel.start()
    first = trained()
    both = CoStudy(1)(Quantize(32, 2)(Pretrain("teacher", 1)(first)))
    for network in (first.student, both.teacher, both.student_to_train()):
        for tensor in network.state_dict().values():
            other = tensor.detach().clone().double()
            torch.distributed.broadcast(other, 0)
            if not torch.equal(other, tensor.double()):
                raise SystemExit("the ranks have different weights")
    if parallel.rank() == 0:
        torch.save(first.student.state_dict(), folder / "two.pt")
    checkpointed = replace(tiny_state(), session=Session((folder / "pass",)))
    Pretrain("student", 1)(checkpointed)
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    code = f"from pathlib import Path; from tests.test_parallel import worker; worker(Path({str(tmp_path)!r}))"
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=280)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), trained().student.state_dict()
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    alone = replace(tiny_state(), session=Session((tmp_path / "pass",)))
    with pytest.raises(RecipeError, match="begun by 2 processes and cannot go on with 1"):
        Pretrain("student", 1)(alone)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 2)
    assert parallel.my_part(6) == slice(4, 6)
    with pytest.raises(RecipeError, match="32 images cannot be shared by 3"):
        parallel.my_part(32)


def test_one_process_is_the_first_of_one_and_averages_nothing() -> None:
    assert (parallel.rank(), parallel.world_size(), parallel.my_part(5)) == (0, 1, slice(0, 5))
    assert parallel.average(3.5) == 3.5
