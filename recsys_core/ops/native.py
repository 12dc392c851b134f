"""Kernels in C++ beside this file, compiled where they are first needed: for the CPU at hand, and once.

Each has a way in torch that does the same and takes longer. It goes where there is no compiler; a line on standard
error says so.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Loaded first, so that the kernels find its OpenMP in the process: one pool of threads serves both.
import torch  # noqa: F401

_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")
_CPU = Path("/proc/cpuinfo")


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """Return the kernels of `NAME.cpp`; None where they cannot be compiled, which standard error says once."""
    source = Path(__file__).with_name(f"{name}.cpp")
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    if shutil.which(compiler[0]) is None:
        return _without(name, f"no C++ compiler {compiler[0]}; install g++, or name another in the variable CXX")
    try:
        place = _cache() / f"{name}-{_digest(source, compiler)}.so"
        if not place.exists():
            _compile(source, compiler, place)
        return ctypes.CDLL(str(place))
    except subprocess.CalledProcessError as error:
        return _without(name, f"{shlex.join(compiler)}: {(error.stderr or 'it failed').strip().splitlines()[0]}")
    except OSError as error:
        return _without(name, str(error))


def _compile(source: Path, compiler: list[str], place: Path) -> None:
    """Compile aside and rename: several ranks may be at it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as folder:
        made = Path(folder) / place.name
        subprocess.run(
            [*compiler, *_FLAGS, str(source), "-o", str(made)], check=True, capture_output=True, text=True, cwd=folder
        )
        made.rename(place)


def _cache() -> Path:
    home, caches = os.environ.get("HOME"), os.environ.get("XDG_CACHE_HOME")
    if not (home or caches):
        raise OSError("neither HOME nor XDG_CACHE_HOME says where to keep it")
    return Path(caches or f"{home}/.cache") / "dayline" / "kernels"


def _digest(source: Path, compiler: list[str]) -> str:
    """Stand for all that decides what is compiled: machines with other CPUs may share the folder."""
    cpu = next((line for line in _CPU.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    described = "\0".join([source.read_text(), *compiler, *_FLAGS, cpu])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _without(name: str, reason: str) -> None:
    sys.stderr.write(f"{name}: the kernel is not compiled ({reason}); torch does its work, which takes longer\n")
