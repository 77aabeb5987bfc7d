"""Where a number comes from: the key of its parameters, commit, machine, package versions."""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata

from repro.files import REPOSITORY

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "pandas", "repro")


def key(kind: str, params: dict) -> str:
    """Return the first 16 hex digits of the SHA-256 of the complete parameters."""
    text = json.dumps([kind, params], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(kind: str, params: dict, result: dict, provenance: dict) -> str:
    """Return the SHA-256 of all that a record says, to find out later whether it was damaged.

    Raises:
        ValueError: it holds NaN or infinity, which JSON has no number for.
    """
    content = [kind, params, result, provenance]
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(**extra) -> dict:
    """Return what traces a number: date, commit, machine, versions, and what the caller adds."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": _versions(),
        **extra,
    }


@cache
def machine() -> str:
    """Return what a speed depends on: system, cores, and the instructions of matrix products.

    A product of bfloat16 matrices is faster than one of float32 with `amx_bf16`; with `avx512_bf16`
    alone it depends on the processor; with neither it takes about five times as long.
    """
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{where}, {_instructions()}"


@cache
def processor() -> str:
    """Return what computes: the GPU's name, or the CPU's with the instructions it multiplies by."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name")
    return f"{name}, {_instructions()}" if name else _instructions()


def _instructions() -> str:
    import torch  # here, because a command that only reads records is quicker without it

    can = torch.cpu.get_capabilities()
    sets = [name for name in ("avx512_bf16", "amx_bf16") if can.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sets])


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


@cache
def git_commit() -> str | None:
    """Return the repository's commit, with `+` where tracked files differ from it."""
    if not (REPOSITORY / ".git").exists():
        return None
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        dirty = subprocess.run(status, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.decode().strip() + ("+" if dirty.strip() else "")
