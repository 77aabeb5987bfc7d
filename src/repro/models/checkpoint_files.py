"""The files of a model folder: which of them hold the weights, and a hash of their content.

The loader, the restoration tool and the identity in records all use this module. So they read the
same weights, which are those that transformers would read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from repro.errors import ModelError, StoreError, one_line
from repro.files import read_regular, safetensors
from repro.models.hub import COMPANIONS, INDEX

SINGLE = "model.safetensors"
# Settings that do not affect the network or the tokenizer: who wrote the file and from where, and
# the type of the stored numbers, which the tensors have themselves.
NEUTRAL = (
    "transformers_version", "_name_or_path", "name_or_path", "is_local", "local_files_only",
    "torch_dtype", "dtype", "architectures",
)  # fmt: skip
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json")
# Companions that no measurement reads.
UNREAD = ("LICENSE*", "NOTICE*", "chat_template*")


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that hold the weights of a folder.

    They are looked for in the order of transformers: the file that `transformers_weights` of the
    configuration names, then `model.safetensors`, then the shards of the index. transformers reads
    no file of another name. If there is none of these, all safetensors of the folder are returned,
    for the restoration tool.

    Raises:
        ModelError: there are none, a shard is missing, or the folder holds a LoRA adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds a LoRA adapter: merge it into its model first")
    if source := _source(folder):
        return regular(_shards(source) if source.suffix == ".json" else [source])
    files = [path for path in safetensors(folder) if not path.name.startswith("consolidated")]
    if [path.name for path in files] == ["adapter_model.safetensors"]:
        raise ModelError(f"{folder} holds a LoRA adapter: merge it into its model first")
    return files


def regular(paths: list[Path]) -> list[Path]:
    """Return the paths; raise ModelError for a named pipe or a folder, which could block."""
    for path in paths:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is not a regular file: only regular files are opened")
    return paths


def index_of(folder: Path) -> Path | None:
    """Return the index, the file that says which shard holds which tensor; None if not used."""
    source = _source(folder)
    return source if source and source.suffix == ".json" else None


def read_index(path: Path) -> dict[str, str]:
    """Return the file of each tensor from an index; raise ModelError if the index is not valid."""
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names or not all(map(_is_file_name, names.values())):
        raise ModelError(f"{path} does not say which shard holds which tensor")
    return names


def _is_file_name(name: object) -> bool:
    """Tell whether a value from a JSON file names a file in the same folder, and no other."""
    plain = isinstance(name, str) and name not in ("", "..") and "\0" not in name
    return plain and Path(str(name)).name == name and "\\" not in str(name)


def read_json(path: Path) -> dict:
    """Return the JSON object in a file of a model; raise ModelError if there is none."""
    try:
        content = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error}): get it again") from error
    except (OSError, StoreError) as error:
        raise ModelError(f"cannot read {path} ({one_line(error)}): get it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object: get it again")
    return content


def opened(path: Path, framework: str) -> safe_open:
    """Open a safetensors file, which checks its header.

    Raises:
        ModelError: it may not be read, or it is truncated or damaged.
    """
    try:
        with path.open("rb"):  # safetensors does not report that a permission is missing
            pass
        return safe_open(path, framework)
    except SafetensorError as error:
        cause = f"{path} is truncated or damaged: get it again ({one_line(error)})"
        raise ModelError(cause) from error
    except OSError as error:
        cause = f"cannot read {path} ({error.strerror or one_line(error)}): check its permissions"
        raise ModelError(cause) from error


def content_id(folder: Path) -> str:
    """Return the SHA-256 of the content of a folder on which results depend.

    It covers the tensors by name, the configuration, and the files of the tokenizer. A copy with
    other shards, another order of JSON keys or other line ends has the same hash.

    Raises:
        ModelError: the weights are missing or damaged.
    """
    unread = {path for pattern in UNREAD for path in folder.glob(pattern)}
    companions = {p for pattern in COMPANIONS for p in folder.glob(pattern) if p.is_file()}
    files = [*weight_files(folder), *sorted(companions - unread)]
    state = tuple((str(p.resolve()), (s := p.stat()).st_mtime_ns, s.st_size) for p in files)
    return _content_id(len(weight_files(folder)), state)


@cache
def _content_id(shards: int, state: tuple) -> str:
    """Return `content_id` from (path, time, size) of the files, of which `shards` hold weights.

    Time and size are arguments so that the cached hash is used only while no file changes.
    """
    paths = [Path(path) for path, _, _ in state]
    digest = hashlib.sha256()
    for name, path, header in sorted(_tensors(paths[:shards]), key=lambda tensor: tensor[0]):
        _add_tensor(digest, name, path, header)
    for path in paths[shards:]:
        digest.update(f"{path.name}:{hashlib.sha256(_meaning(path)).hexdigest()}\n".encode())
    return f"content:{digest.hexdigest()}"


def _tensors(paths: list[Path]) -> list[tuple[str, Path, dict]]:
    """Return name, file and header of every tensor; its offsets are from the file's start."""
    tensors = []
    for path in paths:
        with opened(path, "np"):  # checks sizes, types and offsets
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            start, end = (8 + length + offset for offset in tensor["data_offsets"])
            tensors.append((name, path, tensor | {"data_offsets": (start, end)}))
    return tensors


def _add_tensor(digest, name: str, path: Path, header: dict) -> None:
    """Add the name, the type, the shape and the bytes of a tensor to a digest."""
    start, end = header["data_offsets"]
    digest.update(f"{name}:{header['dtype']}:{header['shape']}:{end - start}\n".encode())
    if end > start:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped)[start:end] as content,
        ):
            digest.update(content)


def _meaning(path: Path) -> bytes:
    """Return the content of a configuration or tokenizer file, as far as results depend on it."""
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):  # the code that uses the file reports the error
            return content
        if path.name in SETTINGS and isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if name not in NEUTRAL}
        return json.dumps(fields, sort_keys=True).encode()
    return content.replace(b"\r\n", b"\n") if path.suffix == ".txt" else content


def _source(folder: Path) -> Path | None:
    """Return the file of weights, or the index, that transformers reads; None if there is none."""
    config = folder / "config.json"
    try:
        named = read_json(config).get("transformers_weights") if config.exists() else None
    except ModelError:  # the code that reads the configuration reports the error
        named = None
    if named:
        if not _is_file_name(named) or not (folder / named).exists():
            raise ModelError(f"{config} names weights that are not in its folder: {named}")
        return folder / named
    return next((folder / name for name in (SINGLE, INDEX) if (folder / name).exists()), None)


def _shards(index: Path) -> list[Path]:
    files = [index.parent / file for file in sorted(set(read_index(index).values()))]
    if missing := [path for path in files if not path.exists()]:
        raise ModelError(f"{missing[0]} is missing, which {index.name} lists")
    return files
