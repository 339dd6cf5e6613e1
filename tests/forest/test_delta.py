"""The file of a sparse expert: what is written is read again, what is damaged is refused in one
line.
"""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from btm.errors import UserError
from btm.forest import delta
from btm.forest.card import Parent
from btm.models import weights

PARENTS = {"seed": Parent(0.25, 1.0, "a" * 64), "law": Parent(0.75, 3.0, "b" * 64)}


@pytest.mark.parametrize(
    "index",
    [
        [],
        [0],
        [254],
        [255],
        [256],
        [0, 1, 2],
        [3, 258, 514, 771, 5000],
        [10**6],
        [254, 509],
        [255, 511],
    ],
)
def test_positions_survive(index):
    index = np.array(index, np.int64)
    assert np.array_equal(delta.decode(delta.encode(index)), index)


@pytest.mark.parametrize("density", [0.001, 0.05, 0.5, 1.0])
def test_random_positions_take_about_a_byte_each(density):
    size = 200_000
    index = np.flatnonzero(np.random.default_rng(0).random(size) < density)
    gaps = delta.encode(index)
    assert np.array_equal(delta.decode(gaps), index)
    assert len(gaps) <= len(index) + size / 255


def made(**changes):
    tensors = {
        "w": (np.array([0, 3, 700]), np.array([0.5, -1e-3, 2.0], np.float16)),
        "b": (np.array([1]), np.array([1.0], np.float16)),
        "untouched": (np.array([], np.int64), np.array([], np.float16)),
    }
    return delta.Delta(
        **{"parents": PARENTS, "sha256": "c" * 64, "density": 0.05, "budget": 9, "tensors": tensors}
        | changes
    )


def test_a_file_says_what_was_written_in_the_same_bytes(tmp_path):
    file = tmp_path / delta.FILE
    delta.write(file, made())
    found = delta.read(file)
    assert (found.parents, found.sha256, found.density, found.budget) == (
        PARENTS,
        "c" * 64,
        0.05,
        9,
    )
    assert list(found.parents) == ["seed", "law"]
    assert found.tensors.keys() == {"w", "b"}
    assert found.nonzeros == 4
    for name, (index, value) in found.tensors.items():
        assert np.array_equal(index, made().tensors[name][0])
        assert np.array_equal(value, made().tensors[name][1])
    before = file.read_bytes()
    delta.write(file, made())
    assert file.read_bytes() == before


def test_every_cut_and_many_flips_are_refused_or_harmless(tmp_path):
    file = tmp_path / delta.FILE
    delta.write(file, made())
    whole = file.read_bytes()
    for end in range(0, len(whole), 7):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError):
            delta.read(file)
    for at in range(0, len(whole), 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = delta.read(file)
        except UserError as error:
            assert "\n" not in str(error)
        else:  # a value, a position or a sha256 has changed: the sha256 of the result tells
            assert found.parents


@pytest.mark.parametrize(
    "stored",
    [
        {"value.w": np.zeros(1, np.float16)},
        {"index.w": np.zeros(1, np.uint8)},
        {"value.w": np.zeros(1, np.float32), "index.w": np.zeros(1, np.uint8)},
        {"value.w": np.zeros(2, np.float16), "index.w": np.zeros(1, np.uint8)},
        {"value.w": np.zeros(1, np.float16), "index.w": np.full(1, 255, np.uint8)},
        {"value.w": np.full(1, np.inf, np.float16), "index.w": np.zeros(1, np.uint8)},
        {"w": np.zeros(1, np.float16)},
    ],
)
def test_tensors_that_are_no_entries_are_refused(tmp_path, stored):
    file = tmp_path / delta.FILE
    delta.write(file, made())
    (size,) = struct.unpack("<Q", file.read_bytes()[:8])
    metadata = json.loads(file.read_bytes()[8 : 8 + size])["__metadata__"]
    save_file(stored, file, metadata)
    with pytest.raises(
        UserError, match=r"delta.safetensors: not a valid delta \(.*: damaged, export it again"
    ):
        delta.read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": {}}, "not a valid delta"),
        ({"parents": {"../x": PARENTS["law"]}}, "not a valid delta"),
        ({"parents": {"law": Parent("much", 1.0, "b")}}, "no valid parents"),
        ({"sha256": None}, "no sha256"),
        ({"budget": "9"}, "no budget"),
        ({"density": "thin"}, "could not convert"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path, changes, message):
    delta.write(tmp_path / delta.FILE, made(**changes))
    with pytest.raises(UserError, match=message):
        delta.read(tmp_path / delta.FILE)


def test_other_files_are_no_delta(tmp_path):
    with pytest.raises(UserError, match="no such file: wanted the delta"):
        delta.read(tmp_path / delta.FILE)
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / delta.FILE)
    with pytest.raises(UserError, match="not a valid delta"):
        delta.read(tmp_path / delta.FILE)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_delta_is_added_where_it_says(tmp_path, dtype):
    before = np.linspace(-2, 2, 1000).astype(dtype).reshape(10, 100)
    save_file(
        {"w": before, "n": np.arange(4), "b": np.ones(2, np.float32)},
        tmp_path / "model.safetensors",
    )
    wanted = before.astype(np.float32)
    for at, change in zip([0, 3, 700], [0.5, -1e-3, 2.0], strict=True):
        wanted.reshape(-1)[at] += np.float32(np.float16(change))
    head = weights.header(tmp_path / "model.safetensors")[1]
    with pytest.raises(UserError, match=r"give weights of sha256 .*, wanted cccccccccccc"):
        delta.apply(made(), tmp_path)
    found = {name: t.raw() for name, t in weights.tensors(tmp_path).items()}
    assert np.array_equal(found["w"], wanted.astype(dtype).reshape(-1))
    assert found["b"].tolist() == [1.0, 2.0]
    assert found["n"].tolist() == [0, 1, 2, 3]
    assert weights.header(tmp_path / "model.safetensors")[1] == head


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"w": np.zeros(701, np.float32)}, "a tensor 'b', which its parents do not have"),
        ({"w": np.zeros(700, np.float32), "b": np.zeros(2, np.float32)}, "more of tensor 'w'"),
        ({"w": np.zeros(701, np.int64), "b": np.zeros(2, np.float32)}, "a tensor 'w', which"),
    ],
)
def test_a_delta_for_another_model_is_refused(tmp_path, stored, message):
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        delta.apply(made(), tmp_path)
