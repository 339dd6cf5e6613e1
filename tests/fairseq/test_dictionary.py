import pytest

from btm.errors import UserError
from btm.fairseq import dictionary


def test_special_symbols_come_first_and_lines_follow(tmp_path):
    (tmp_path / "dict.txt").write_text("the 12\nof 3\nmadeupword0000 0\n")
    found = dictionary.read(tmp_path / "dict.txt")
    assert found.symbols == ("<s>", "<pad>", "</s>", "<unk>", "the", "of", "madeupword0000")
    assert found.counts[4:] == (12, 3, 0)
    assert found.ordinary == {4: "the", 5: "of"}
    assert not found.is_byte_pairs
    dictionary.write(tmp_path / "again.txt", found)
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "dict.txt").read_bytes()


def test_a_later_line_may_take_a_symbol_over(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("a 1\nb 1\na 2 #fairseq:overwrite\n")
    found = dictionary.read(path)
    assert (len(found), found.ids["a"]) == (7, 6)
    dictionary.write(tmp_path / "again.txt", found)
    assert (tmp_path / "again.txt").read_text() == path.read_text()


def test_fairseq_writes_the_same_bytes(place):
    path = place / "words/speeches/dict.txt"
    dictionary.write(place / "again.txt", dictionary.read(path))
    assert (place / "again.txt").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"dict.txt: 0 lines"),
        (b"the 1\nthe 2\n", r"dict.txt:2: 'the' is there twice"),
        (b"</s> 1\n", r"dict.txt:1: '</s>' is there twice"),
        (b"the 1\n\xff 2\n", r"dict.txt:2: no UTF-8"),
        (b"the\n", r"dict.txt:1: 'the'; wanted '<symbol> <count>'"),
        (b"the many\n", r"dict.txt:1: 'the many'; wanted"),
        (b"the -1\n", r"dict.txt:1: 'the -1'; wanted"),
        (b"the 99999999999999999999\n", r"dict.txt:1: .*; wanted '<symbol> <count>'"),
        (b"the 9300000000000000000\n", r"dict.txt:1: .*; wanted '<symbol> <count>'"),
        (b"the 1\n\nof 1\n", r"dict.txt:2: ''; wanted"),
    ],
)
def test_what_is_no_dictionary_is_named_by_its_line(tmp_path, data, message):
    (tmp_path / "dict.txt").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        dictionary.read(tmp_path / "dict.txt")
    assert "\n" not in str(caught.value)


def test_a_missing_dictionary_is_named(tmp_path):
    with pytest.raises(UserError, match=r"dict.txt: No such file"):
        dictionary.read(tmp_path / "dict.txt")
