import struct

import numpy as np
import pytest
from fairseq_models import LINES, VOCABULARIES
from hypothesis import given, settings
from hypothesis import strategies as st

from btm.errors import UserError
from btm.fairseq import indexed
from btm.fairseq.indexed import Indexed


def of_lines(lines):
    return Indexed(
        np.array([i for line in lines for i in line], np.int64), np.array([len(x) for x in lines])
    )


@pytest.mark.parametrize("size", VOCABULARIES)
def test_files_are_those_of_fairseq_bit_for_bit(place, tmp_path, size):
    assert indexed.write(tmp_path / "ours", [of_lines(LINES[:1]), of_lines(LINES[1:])], size) == 8
    for ending in ("bin", "idx"):
        assert (tmp_path / f"ours.{ending}").read_bytes() == (
            place / f"built-{size}.{ending}"
        ).read_bytes()
    found = indexed.read(place / f"built-{size}", 500)
    assert (found.tokens.tolist(), found.sizes.tolist()) == ([5, 6, 7, 2, 2, 499, 4, 2], [4, 1, 3])


@settings(max_examples=25, deadline=None)
@given(lines=st.lists(st.lists(st.integers(0, 70_000), max_size=9), max_size=9), wide=st.booleans())
def test_what_is_written_is_read(tmp_path_factory, lines, wide):
    prefix = tmp_path_factory.mktemp("indexed") / "valid.of.v2"
    if not wide:
        lines = [[i % 60_000 for i in line] for line in lines]
    size = 70_001 if wide else 60_000
    indexed.write(prefix, [of_lines(lines)], size)
    found = indexed.read(prefix, size)
    assert np.array_equal(found.tokens, of_lines(lines).tokens)
    assert found.sizes.tolist() == [len(line) for line in lines]
    assert found.tokens.dtype.itemsize == (4 if wide else 2)


def header(magic=b"MMIDIDX\0\0", version=1, code=8, n=3):
    return struct.pack("<9sQBQ", magic, version, code, n)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no index of fairseq's format mmap"),
        (
            header(b"TNTIDX\0\0\0"),
            "fairseq's format cached or lazy; binarise with --dataset-impl mmap",
        ),
        (header(b"HUFFIDX\0\0"), "fairseq's format huffman"),
        (header(version=2), "version 2, token type 8, 3 lines; wanted 1"),
        (header(code=6), "version 1, token type 6"),
        (header(code=77), "version 1, token type 77"),
        (header(n=1 << 60), "lines; wanted 1 and whole numbers"),
        (header(n=4), r"62 bytes, but 4 lines need 74: truncated"),
        (
            header() + struct.pack("<3i3q", 4, -1, 3, 0, 8, 10),
            "its lines do not follow one another",
        ),
        (header() + struct.pack("<3i3q", 4, 1, 3, 0, 8, 12), "its lines do not follow one another"),
        (header() + struct.pack("<3i3q", 4, 1, 2, 0, 8, 10), r"bin: 16 bytes, but p.idx says 14"),
        (header() + struct.pack("<3i3q", 4, 1, 3, 0, 8, 10), r"bin: a token id outside 0 to 498"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, data, message):
    indexed.write(tmp_path / "p", [of_lines(LINES)], 500)
    if len(data) == 26 and "truncated" in message:
        data += (tmp_path / "p.idx").read_bytes()[26:]
    (tmp_path / "p.idx").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        indexed.read(tmp_path / "p", 499)
    assert "\n" not in str(caught.value)


def test_a_missing_half_is_named(tmp_path):
    indexed.write(tmp_path / "p", [of_lines(LINES)], 500)
    (tmp_path / "p.bin").unlink()
    with pytest.raises(UserError, match=r"p.bin: 0 bytes, but p.idx says 16"):
        indexed.read(tmp_path / "p", 500)
    (tmp_path / "p.idx").unlink()
    with pytest.raises(UserError, match=r"p.idx: No such file"):
        indexed.read(tmp_path / "p", 500)


@pytest.mark.parametrize(
    ("begin", "tokens", "wanted"), [(0, 23, 23), (3, 20, 20), (2, 9, 40), (0, 23, 4)]
)
def test_tokens_are_told_of_as_often_as_wanted_and_copied_never(tmp_path, begin, tokens, wanted):
    """As fairseq's own reader does: a line is where its pointer says, as long as its size says."""
    text = np.arange(100, 123, dtype="<u2")
    text.tofile(tmp_path / "shard.bin")
    indexed.link(tmp_path / "train", tmp_path / "shard.bin", "uint16", begin, tokens, wanted, 7)
    content = (tmp_path / "train.idx").read_bytes()
    magic, version, code, n = struct.unpack("<9sQBQ", content[:26])
    assert (magic, version, code) == (b"MMIDIDX\0\0", 1, 8)
    sizes, pointers = (
        np.frombuffer(content, "<i4", n, 26),
        np.frombuffer(content, "<i8", n, 26 + 4 * n),
    )
    raw = (tmp_path / "train.bin").read_bytes()
    lines = [np.frombuffer(raw, "<u2", size, at) for size, at in zip(sizes, pointers, strict=True)]
    assert len(content) == 26 + 12 * n and sizes.min() > 0 and sizes.max() <= 7
    assert (
        np.concatenate(lines).tolist() == np.resize(text[begin : begin + tokens], wanted).tolist()
    )
    assert (tmp_path / "train.bin").is_symlink()
