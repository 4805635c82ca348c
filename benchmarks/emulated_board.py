"""A 64-bit Arm "board" without a board: Debian's Python and TVM's wheel for arm64 in a folder, run by user-mode QEMU.

Nothing is installed on this machine: apt and pip, as they are configured here, download into the folder, with a package
database of its own. The folder is made once and may be used again.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from qkd.base.files import write_atomic
from qkd.targets.running.toolchain import run_checked

DEBIAN = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgcc-s1")
WHEELS = (
    "apache-tvm", "apache-tvm-ffi", "numpy", "ml_dtypes", "typing_extensions", "psutil", "cloudpickle", "tornado",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
DOWNLOAD_LIMIT_S = 900.0


def make_board(folder: Path) -> Path:
    """Fill `folder` where it is not yet, with the versions of this environment, and return it."""
    wanted = "\n".join([*DEBIAN, *(f"{name}=={version(name)}" for name in WHEELS)])
    ready = folder / "ready.txt"
    if not ready.exists() or ready.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        _unpack_debian(folder)
        _unpack_wheels(folder)
        write_atomic(ready, wanted)
    return folder


def server_command(folder: Path, cpu: str) -> tuple[str, ...]:
    """What starts TVM's RPC server on a board with this processor of QEMU's; its options follow."""
    python = interpreter(folder, cpu)
    # The server starts another Python by sys.executable, which is QEMU's guest and nothing that this machine can run.
    start = "import runpy, sys; sys.executable = {!r}; runpy.run_module('tvm.exec.rpc_server', run_name='__main__')"
    return (str(python), "-c", start.format(str(python)))


def interpreter(folder: Path, cpu: str) -> Path:
    """A script that runs the board's Python on a processor."""
    script, root = folder.resolve() / f"python-{cpu.partition(',')[0]}", folder.resolve() / "root"
    run = f'exec qemu-aarch64 -cpu {cpu} -L "{root}" "{root}/usr/bin/{_python(folder)}" "$@"'
    write_atomic(script, f'#!/bin/sh\nexport PYTHONPATH="{root.parent}/site" PYTHONHOME="{root}/usr"\n{run}\n')
    script.chmod(0o755)
    return script


def _python(folder: Path) -> str:
    """For example python3.11."""
    return (folder / "root" / "usr" / "bin" / "python3").readlink().name


def _unpack_debian(folder: Path) -> None:
    """Download the packages with all they depend on, and unpack them without installing."""
    for part in ("lists/partial", "cache/archives/partial", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "status", "")  # nothing is installed there yet
    place = folder.resolve()
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": place, "Dir::Cache": place / "cache",
        "Dir::State::lists": place / "lists", "Dir::State::status": place / "status", "Debug::NoLocking": "1",
    }  # fmt: skip
    apt = ("apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items()))
    run_checked((*apt, "update"), "reading apt's lists for arm64", folder, DOWNLOAD_LIMIT_S)
    wanted = ("install", "--no-install-recommends", "--download-only", *DEBIAN)
    run_checked((*apt, *wanted), "downloading Python for arm64", folder, DOWNLOAD_LIMIT_S)
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        run_checked(("dpkg-deb", "-x", str(package.resolve()), "root"), f"unpacking {package.name}", folder)
    if not (
        folder / "root" / "lib"
    ).exists():  # a link to usr/lib in newer releases, made by a package that is left out
        (folder / "root" / "lib").symlink_to("usr/lib")


def _unpack_wheels(folder: Path) -> None:
    """The packages of this environment, for the board's Python and processor."""
    command = (
        sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", "site", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", _python(folder).removeprefix("python"),
        *(f"--platform={name}" for name in PLATFORMS), *(f"{name}=={version(name)}" for name in WHEELS),
    )  # fmt: skip
    run_checked(command, "downloading TVM for arm64", folder, DOWNLOAD_LIMIT_S)
