"""Where and with what a number was made: machine, date, versions. Every results file holds it."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "apache-tvm", "apache-tvm-ffi", "numpy", "scikit-learn", "pyarrow", "pillow")


def package_versions() -> dict[str, str]:
    """Versions of qkd, Python and the packages that results depend on; packages that are absent are left out."""
    found = {"qkd": version("qkd"), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_machine() -> str:
    """Processor, cores and system in one line."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def today() -> str:
    """The date in UTC."""
    return datetime.now(UTC).date().isoformat()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("model name", "Model"))]
    except OSError:
        lines = []
    return lines[0].partition(":")[2].strip() if lines else platform.processor() or "unknown processor"
