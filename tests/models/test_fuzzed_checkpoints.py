"""Made-up indexes and damaged safetensors: a named error, or exactly what the file says."""

import json
import string
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from repro.errors import ModelError
from repro.models.checkpoint_files import content_id, weight_files
from repro.models.hub import INDEX
from repro.restoration.checkpoints import Checkpoint

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
TENSORS = {
    "model.layers.0.self_attn.q_proj.weight": torch.arange(6.0).reshape(2, 3),
    "model.norm.weight": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0, 4),
}
NAMES = st.sampled_from(["a.safetensors", "b.safetensors", "", ".", "..", "/etc/passwd", "../x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with two files of weights that an index can name."""
    place = tmp_path_factory.mktemp("fuzzed")
    for name in ("a", "b"):
        save_file({f"{name}.weight": torch.ones(2)}, place / f"{name}.safetensors")
    return place


@QUICK
@given(index=VALUES | st.fixed_dictionaries({"weight_map": VALUES}))
def test_an_index_names_files_of_its_folder_or_is_refused(folder, index):
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    try:
        files = weight_files(folder)
    except ModelError:
        return
    named = set(index["weight_map"].values())
    assert {path.name for path in files} == named <= {"a.safetensors", "b.safetensors"}


@QUICK
@given(
    text=st.binary(max_size=40) | st.text(alphabet=string.printable, max_size=40).map(str.encode)
)
def test_an_index_of_any_bytes_is_refused(folder, text):
    (folder / INDEX).write_bytes(text)
    with pytest.raises(ModelError):
        weight_files(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """Return the bytes of a small file of safetensors."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    save_file(TENSORS, path, {"format": "pt"})
    return path.read_bytes()


def read(folder: Path, content: bytes) -> dict[str, torch.Tensor] | None:
    """Return the tensors of a folder whose weights have this content, None where it is refused.

    The identity of the folder is refused with them.
    """
    (folder / "model.safetensors").unlink(missing_ok=True)  # it may still be mapped
    (folder / "model.safetensors").write_bytes(content)
    try:
        checkpoint = Checkpoint(folder)
        tensors = {name: checkpoint[name].clone() for name in checkpoint}
    except ModelError:
        with pytest.raises(ModelError):
            content_id(folder)
        return None
    assert content_id(folder).startswith("content:")
    return tensors


def as_the_header_says(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """Return type, shape and bytes of every tensor, read anew from the format's description."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: (t["dtype"], t["shape"], content[start:][slice(*t["data_offsets"])])
        for name, t in header.items()
    }


def check(tensors: dict[str, torch.Tensor] | None, content: bytes) -> None:
    """Check that tensors that were read are those of the header."""
    if tensors is None:
        return
    expected = as_the_header_says(content)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        _, shape, data = expected[name]
        assert list(tensor.shape) == shape
        assert tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() == data


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path


@QUICK
@given(data=st.data())
def test_a_file_cut_off_anywhere_is_refused(place, whole, data):
    length = data.draw(st.integers(0, len(whole) - 1))
    assert read(place, whole[:length]) is None


@QUICK
@given(data=st.data())
def test_changed_bytes_are_refused_or_read_as_they_are(place, whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check(read(place, bytes(content)), bytes(content))


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F64", "I8", "F8_E4M3", "x", 3, None]),
        "shape": st.lists(st.integers(-2, 9), max_size=3) | st.none() | st.text(max_size=2),
        "data_offsets": st.lists(st.integers(-9, 40), max_size=3) | st.none(),
    },
)


@QUICK
@given(
    header=st.dictionaries(st.text(max_size=4), ENTRIES | VALUES, max_size=3) | VALUES,
    size=st.integers(0, 40),
    more=st.integers(-3, 1 << 62),
)
def test_a_made_up_header_is_refused_or_read_as_it_says(place, header, size, more):
    text = json.dumps(header).encode()
    for length in (len(text), max(0, len(text) + more)):
        content = length.to_bytes(8, "little") + text + bytes(range(size))
        check(read(place, content), content)
