"""Checkpoint folders: weights mapped from safetensors, and written again tensor by tensor."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from repro.errors import ConfigError, ModelError, StoreError
from repro.files import sha256
from repro.models import hub, registry, weights
from repro.models.checkpoint_files import index_of, read_index, read_json, weight_files
from repro.models.hub import COMPANIONS
from repro.restoration.tensor_names import common_names


def find(name: str | Path) -> Path:
    """Return the folder of a model: a folder, a name of the registry, or `owner/name[@revision]`.

    Raises:
        ModelError: there is none, or the Hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if str(name) in registry.entries() or hub.ID.fullmatch(str(name)):
        return weights.obtain(registry.entry(name))
    raise ModelError(
        f"there is no folder {name}: give a folder of safetensors, a name from `repro models`, or"
        " an id on the Hub such as owner/name"
    )


class Checkpoint(Mapping[str, torch.Tensor]):
    """The tensors of a folder by name. Each is mapped from its file: nothing is read before use."""

    def __init__(self, folder: Path):
        """Open every shard.

        Raises:
            ModelError: there are no safetensors, or a shard is missing, truncated or damaged.
        """
        self.folder = folder
        self.files = weight_files(folder)
        self._open, self.shard = {}, {}
        for path in self.files:
            try:
                self._open[path] = safe_open(path, "pt")
                names = self._open[path].keys()
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"{path} is truncated or damaged ({error}): get it again"
                ) from error
            for name in names:
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
        """Return a tensor whose memory is the file."""
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
        """Return `config.json`, empty where there is none."""
        return read_json(path) if (path := self.folder / "config.json").exists() else {}


class View(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint under the names that are compared."""

    def __init__(self, checkpoint: Checkpoint, names: dict[str, str]):
        """Show the tensor `names[name]` as `name`."""
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


def align(base: Checkpoint, tuned: Checkpoint) -> tuple[View, View, dict[str, str]]:
    """Return both models under the same names, and which stored tensor repeats which.

    An output matrix that is absent or has the bits of the embedding is tied to it. Tied in both,
    it is no parameter of its own and is written as the embedding is. Absent in `base` only, its
    value there is the embedding's. Tables of the position embedding's angles are no parameters.

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
        return View(base, views[0]), View(tuned, views[1]), {}
    tied = [_tied(View(c, v), head, embedding) for c, v in zip((base, tuned), views, strict=True)]
    twins = {views[1][head]: views[1][embedding]} if all(tied) and head in views[1] else {}
    if all(tied):
        for view in views:
            view.pop(head, None)
    elif head not in views[1]:
        raise ModelError(f"{head} is missing from {tuned.folder}, and in {base.folder} it is a"
                         " matrix of its own: these are different architectures")  # fmt: skip
    else:
        views[0].setdefault(head, views[0][embedding])
    return View(base, views[0]), View(tuned, views[1]), twins


def _model_type(config: dict) -> str | None:
    """Return the family of a model, or of the language model inside one that reads images too."""
    inside = config.get("text_config")
    return (inside if isinstance(inside, dict) else config).get("model_type")


def _tied(model: View, head: str, embedding: str) -> bool:
    if head not in model:
        return True
    a, b = model[head], model[embedding]
    same = (a.shape, a.dtype) == (b.shape, b.dtype) and torch.equal(a[:1], b[:1])
    return same and torch.equal(a, b)


class Shards:
    """The shards of a checkpoint written anew: same files and headers, tensors in any order."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, twins: Mapping[str, str]):
        """Write the headers.

        Args:
            checkpoint: whose files, headers and types are kept.
            folder: where they are written; it exists.
            twins: tensors that repeat another, and which.
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
                self._places.setdefault(twins.get(name, name), []).append((path.name, begin))

    def put(self, name: str, start: int, values: torch.Tensor) -> None:
        """Write a flat piece of a tensor that begins at the parameter `start`.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        data = values.contiguous().view(torch.uint8).numpy().data
        for file, begin in self._places[name]:
            with writing(self.folder / file):
                self._files[file].seek(begin + start * values.element_size())
                rest = data
                while rest:  # an unbuffered file may take a part only
                    rest = rest[self._files[file].write(rest) :]

    def close(self) -> None:
        """Finish all files."""
        for file in self._files.values():
            file.close()


@contextmanager
def writing(path: Path):
    """Turn an error of the disk within the block into a StoreError that names the file."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path.name} ({error.strerror or error}): nothing is kept; check the"
            " free space and the permissions of the folder"
        ) from error


def copy_beside(source: Path, target: Path) -> None:
    """Copy configuration, tokenizer and generation settings, and the index of the shards last."""
    index = [path.name] if (path := index_of(source)) else []  # a stale one is left behind
    for pattern in (*COMPANIONS, *index):
        for path in sorted(p for p in source.glob(pattern) if p.is_file()):
            with writing(target / path.name):
                shutil.copyfile(path, target / path.name)


def check_target(out: Path, inputs: list[Path], overwrite: bool) -> None:
    """Refuse a target that exists, unless it may be replaced and this tool has written it.

    Raises:
        ConfigError: it must not be written.
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
