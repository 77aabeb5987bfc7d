"""Checkpoint folders: reads memory-mapped safetensors, and writes them in any order of tensors."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from repro.errors import ConfigError, ModelError, StoreError
from repro.files import sha256, user_path
from repro.models import hub, registry, weights
from repro.models.checkpoint_files import index_of, opened, read_index, read_json, weight_files
from repro.models.hub import COMPANIONS
from repro.restoration.tensor_names import common_names


def find(name: str | Path) -> Path:
    """Return the folder of a model: a folder, a name of the registry, or `owner/name[@revision]`.

    Raises:
        ModelError: there is none, or the Hub cannot be reached.
    """
    folder = user_path(name)
    if folder.is_dir():
        return folder
    if str(name) in registry.entries() or hub.ID.fullmatch(str(name)):
        return weights.obtain(registry.entry(name))
    raise ModelError(
        f"there is no folder {name}: give a folder of safetensors, a name from `repro models`, or"
        " an id on the Hub such as owner/name"
    )


class Checkpoint(Mapping[str, torch.Tensor]):
    """The tensors of a folder by name, memory-mapped: a tensor is read when it is used."""

    def __init__(self, folder: Path):
        """Open every shard.

        Raises:
            ModelError: there are no safetensors, or a shard is missing, truncated or damaged.
        """
        self.folder = folder
        self.files = weight_files(folder)
        self._open, self.shard = {}, {}
        for path in self.files:
            self._open[path] = opened(path, "pt")
            for name in self._open[path].keys():  # noqa: SIM118 (it is no mapping)
                if name in self.shard:
                    raise ModelError(f"{name} is in both {self.shard[name].name} and {path.name}")
                self.shard[name] = path
        self._check_index()

    def _check_index(self) -> None:
        if index := index_of(self.folder):
            for name, file in read_index(index).items():
                if self.shard.get(name) != self.folder / file:
                    raise ModelError(f"{self.folder / file} lacks {name}, which {index.name} lists")

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor that is memory-mapped from its file."""
        return self._open[self.shard[name]].get_tensor(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a tensor of this name, without mapping it."""
        return name in self.shard

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all tensors."""
        return iter(self.shard)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.shard)

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(path.stat().st_size for path in self.files)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every shard."""
        return {path.name: sha256(path) for path in self.files}

    def config(self) -> dict:
        """Return the content of `config.json`; empty if there is no such file."""
        return read_json(path) if (path := self.folder / "config.json").exists() else {}


class RenamedTensors(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint under the names by which two models are compared."""

    def __init__(self, checkpoint: Checkpoint, names: dict[str, str]):
        """Map `name` to the stored tensor `names[name]`."""
        self.checkpoint, self.names = checkpoint, names

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor."""
        return self.checkpoint[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)


def align(
    base: Checkpoint, tuned: Checkpoint
) -> tuple[RenamedTensors, RenamedTensors, dict[str, str]]:
    """Return both models under the same names, and the stored tensors that duplicate others.

    An output matrix is tied to the embedding if it is absent or has the same bits. If it is tied in
    both models, it is not a parameter of its own: it is left out, and written with the values of
    the embedding. If it is absent in `base` alone, the embedding is taken in its place there.
    Tables of rotary position angles are not parameters and are left out.

    Returns:
        The tensors of `base`, those of `tuned`, and {stored name of a duplicate in `tuned`: stored
        name of the tensor with its values}.

    Raises:
        ModelError: the models are of different architectures.
    """
    types = [_model_type(checkpoint.config()) for checkpoint in (base, tuned)]
    if None not in types and types[0] != types[1]:
        raise ModelError(f"{base.folder} is a {types[0]} model and {tuned.folder} a {types[1]} one")
    parameters = ([n for n in c if not n.endswith("rotary_emb.inv_freq")] for c in (base, tuned))
    views = common_names(*parameters)
    embedding = next((n for n in views[1] if n.endswith("embed_tokens.weight")), None)
    head = next((n for n in (*views[0], *views[1]) if n.endswith("lm_head.weight")), None)
    if head is None or embedding is None or embedding not in views[0]:
        return RenamedTensors(base, views[0]), RenamedTensors(tuned, views[1]), {}
    tied = [
        _tied(RenamedTensors(c, v), head, embedding)
        for c, v in zip((base, tuned), views, strict=True)
    ]
    duplicates = {views[1][head]: views[1][embedding]} if all(tied) and head in views[1] else {}
    if all(tied):
        for view in views:
            view.pop(head, None)
    elif head not in views[1]:
        raise ModelError(f"{head} is missing from {tuned.folder}, and in {base.folder} it is a"
                         " matrix of its own: these are different architectures")  # fmt: skip
    else:
        views[0].setdefault(head, views[0][embedding])
    return RenamedTensors(base, views[0]), RenamedTensors(tuned, views[1]), duplicates


def _model_type(config: dict) -> str | None:
    """Return the family of a model, or of the language model within a multimodal one."""
    text_config = config.get("text_config")
    return (text_config if isinstance(text_config, dict) else config).get("model_type")


def _tied(model: RenamedTensors, head: str, embedding: str) -> bool:
    """Tell whether the output matrix is absent or has the same bits as the embedding."""
    if head not in model:
        return True
    output, input_ = model[head], model[embedding]
    if (output.shape, output.dtype) != (input_.shape, input_.dtype):
        return False
    # The first rows are compared before both matrices are read as a whole.
    return torch.equal(output[:1], input_[:1]) and torch.equal(output, input_)


class ShardWriter:
    """Writes new shards with the files and headers of a checkpoint, tensors in any order."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, duplicates: Mapping[str, str]):
        """Write the headers.

        Args:
            checkpoint: its file names, headers and types are used again.
            folder: an existing folder to write to.
            duplicates: duplicated tensor → the tensor whose values it is written with.
        """
        self.folder, self._places = folder, {}
        self._files = {}
        for path in checkpoint.files:
            with path.open("rb") as source:
                length = source.read(8)
                header = source.read(int.from_bytes(length, "little"))
            self._files[path.name] = file = (folder / path.name).open("wb", buffering=0)
            file.write(length + header)
            entries = json.loads(header)
            for name in entries.keys() - {"__metadata__"}:
                begin = 8 + len(header) + entries[name]["data_offsets"][0]
                self._places.setdefault(duplicates.get(name, name), []).append((path.name, begin))

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write a flat slice of a tensor, beginning at its parameter `start`.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        data = values.contiguous().view(torch.uint8).numpy().data
        for file, begin in self._places[name]:
            with writing(self.folder / file):
                self._files[file].seek(begin + start * values.element_size())
                unwritten = data
                while unwritten:  # the file is unbuffered, so one call may write only a part
                    unwritten = unwritten[self._files[file].write(unwritten) :]

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()


@contextmanager
def writing(path: Path):
    """Raise an OSError from within the `with` statement as a StoreError that names the file."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path.name} ({error.strerror or error}): nothing is kept; check the"
            " free space and the permissions of the folder"
        ) from error


def copy_beside(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer and generation settings, then the index of the shards."""
    index = [path.name] if (path := index_of(source)) else []  # a stale index is not copied
    for pattern in (*COMPANIONS, *index):
        for path in sorted(p for p in source.glob(pattern) if p.is_file()):
            with writing(target / path.name):
                shutil.copyfile(path, target / path.name)


def check_target(out: Path, inputs: list[Path], overwrite: bool) -> None:
    """Refuse a target that exists, unless `overwrite` is set and this tool has written it.

    Raises:
        ConfigError: the target holds one of the inputs, or exists and may not be replaced.
    """
    if any(out.resolve() in (path.resolve(), *path.resolve().parents) for path in inputs):
        raise ConfigError(f"{out} is, or holds, one of the two models: give another folder")
    if not out.exists():
        return
    if not overwrite:
        raise ConfigError(f"{out} exists: give another folder, or --overwrite to replace it")
    if not any(out.glob("restore.json")) and not any(out.glob("*/restore.json")):
        raise ConfigError(f"{out} holds no restore.json, so it was not written by this command and"
                          " is not replaced: give another folder")  # fmt: skip
