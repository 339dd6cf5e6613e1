"""The file of an adapter: what is written is read, and what is not valid is refused in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest

from btm.errors import UserError
from btm.forest import adapter
from btm.forest.adapter import Adapter
from btm.forest.card import Parent
from btm.models import weights
from btm.models.low_rank import LowRank


def made(dtype="F16"):
    numbers = np.random.default_rng(0)

    def factor(*shape):
        values = np.empty(shape, np.float32)
        stored = weights.narrow(numbers.normal(size=shape).ravel(), dtype)
        weights.widen(stored, dtype, values.reshape(-1))
        return values

    tensors = {
        name: LowRank(name.removesuffix(".weight"), factor(2, 6), factor(4, 2), 0.5, turned, dtype)
        for name, turned in (("h.0.a.weight", False), ("h.1.b.weight", True))
    }
    parents = {"seed": Parent(1.0, 1.0, "0" * 64)}
    return Adapter(parents, "1" * 64, 2, 1.0, ["a", "b"], tensors)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_what_is_written_is_read(dtype, tmp_path):
    adapter.write(tmp_path / adapter.FILE, made(dtype))
    found = adapter.read(tmp_path / adapter.FILE)
    for name, change in made(dtype).tensors.items():
        assert np.array_equal(found.tensors[name].a, change.a)
        assert np.array_equal(found.tensors[name].b, change.b)
        kept = ("module", "scale", "transposed", "dtype")
        assert all(getattr(found.tensors[name], key) == getattr(change, key) for key in kept)
    assert replace(found, tensors={}) == replace(made(dtype), tensors={})
    assert found.parameters == 2 * (2 * 6 + 4 * 2)


def spoil(file, **values):
    """Write an adapter's file again with other metadata."""
    found, head = weights.header(file)
    metadata = json.loads(json.loads(head[8:])["__metadata__"]["btm-adapter"])
    tensors = {}
    for tensor in found:
        values_of = np.empty(tensor.shape, np.float32)
        weights.widen(np.array(tensor.raw()), tensor.dtype, values_of.reshape(-1))
        tensors[tensor.name] = (tensor.dtype, values_of)
    with file.open("wb") as handle:
        weights.write_tensors(handle, tensors, {"btm-adapter": json.dumps(metadata | values)})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schema": 9}, "written by a newer btm"),
        ({"parents": {}}, "not a valid adapter"),
        ({"parents": {"../x": {"weight": 1.0, "raw": 1.0, "sha256": ""}}}, "not a valid adapter"),
        ({"rank": "2"}, "no sha256, or no rank"),
        ({"layers": {}}, "factors of other tensors than its layers"),
        ({"layers": {"h.0.a.weight": {}, "h.1.b.weight": {}}}, "not a valid adapter"),
    ],
    ids=str,
)
def test_what_is_not_valid_is_refused(values, said, tmp_path):
    file = tmp_path / adapter.FILE
    adapter.write(file, made())
    spoil(file, **values)
    with pytest.raises(UserError, match=said) as error:
        adapter.read(file)
    assert "\n" not in str(error.value)


def test_numbers_and_ranks_that_do_not_fit_are_refused(tmp_path):
    file, whole = tmp_path / adapter.FILE, made()
    first = whole.tensors["h.0.a.weight"]
    for wrong, said in (
        (replace(first, b=first.b[:, :1]), "has ranks 2 and 1"),
        (replace(first, a=first.a * np.float32("nan")), "not finite"),
        (replace(first, scale=float("inf")), "not a valid adapter"),
    ):
        adapter.write(file, replace(whole, tensors=whole.tensors | {"h.0.a.weight": wrong}))
        with pytest.raises(UserError, match=said):
            adapter.read(file)
