"""Keys, digests and provenance of records: commit, machine and package versions of a number."""

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
    """Return the key of a record: 16 hex digits of the SHA-256 of kind and complete parameters."""
    text = json.dumps([kind, params], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(kind: str, params: dict, result: dict, provenance: dict) -> str:
    """Return the SHA-256 of the whole content of a record, by which damage is found later.

    Raises:
        ValueError: it holds NaN or infinity, for which JSON has no number.
    """
    content = [kind, params, result, provenance]
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(**extra) -> dict:
    """Return the origin of a number: date, commit, machine, versions, and `extra` of the caller."""
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
    """Return the machine as far as speed depends on it: system, cores, instruction sets.

    A product of bfloat16 matrices is faster than one of float32 with `amx_bf16`; with `avx512_bf16`
    alone it depends on the processor; with neither it takes about five times as long.
    """
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}, {_instructions()}"


@cache
def processor() -> str:
    """Return the name of the GPU, or that of the CPU with its instruction sets for products."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name")
    return f"{name}, {_instructions()}" if name else _instructions()


def _instructions() -> str:
    """Return the instruction sets that PyTorch multiplies matrices with on this CPU."""
    import torch  # imported here, because a command that only reads records starts sooner

    capabilities = torch.cpu.get_capabilities()
    sets = [name for name in ("avx512_bf16", "amx_bf16") if capabilities.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sets])


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


@cache
def git_commit() -> str | None:
    """Return the repository's commit, with `+` if tracked files differ from it, or None."""
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
