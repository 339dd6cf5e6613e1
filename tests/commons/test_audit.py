"""The audit log: what was appended is read again; what was edited or cut is named with its line."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from btm.commons import audit
from btm.errors import UserError


@pytest.fixture
def log(tmp_path):
    file = tmp_path / "log" / "audit.jsonl"
    for number in range(5):
        audit.append(file, "judged", {"number": number, "why": "line\nbreak ü"})
    return file


def broken(log, head=None):
    with pytest.raises(UserError) as error:
        audit.verify(log, head)
    return str(error.value)


def test_what_was_appended_is_read_again(log):
    entries = audit.verify(log)
    assert [entry.facts["number"] for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.line for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0].event == "judged" and entries[0].facts["why"] == "line\nbreak ü"


def test_an_empty_log_is_whole(tmp_path):
    assert audit.verify(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("line", range(5))
def test_every_edited_byte_is_found(log, line):
    whole = log.read_bytes()
    starts = [0, *(found.end() for found in re.finditer(b"\n", whole))]
    for at in range(starts[line], starts[line + 1] - 1, 7):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        # An edit is seen at its own line, or where the next one no longer follows it.
        assert re.match(rf"{re.escape(str(log))}:({line + 1}|{line + 2}):", broken(log)), at


def test_an_edit_with_all_later_hashes_made_anew_is_found_by_the_head(log):
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entries[1]["facts"] = {"number": 99}
    log.unlink()
    head = log.with_name("audit.jsonl.head")
    kept = audit.Head(**json.loads(head.read_text()))
    head.unlink()
    for entry in entries:
        audit.append(log, entry["event"], entry["facts"])
    assert len(audit.verify(log)) == 5  # it is a valid log, of another history
    assert ":5: is not the line of its head" in broken(log, kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], ":5: missing: the log was cut, its head says 5 lines"),
        (lambda lines: lines[1:], ":1: says that it is line 2"),
        (lambda lines: lines[:2] + lines[3:], ":3: says that it is line 4"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ":1: says that it is line 2"),
        (lambda lines: [*lines[:3], "{}", *lines[3:]], ":4: no event of this log"),
        (lambda lines: [*lines[:4], "nonsense"], ":5: no JSON"),
    ],
)
def test_lines_that_are_cut_moved_or_added_are_named(log, change, said):
    lines = log.read_text().splitlines()
    log.write_text("".join(f"{line}\n" for line in change(lines)))
    assert said in broken(log)
    with pytest.raises(UserError):
        audit.append(log, "judged", {})


def test_a_torn_last_line_is_cut_off_and_the_log_goes_on(log):
    with log.open("ab") as handle:
        handle.write(b'{"line": 6, "ti')
    assert len(audit.verify(log)) == 5
    assert audit.append(log, "judged", {"number": 5}).lines == 6
    assert audit.verify(log)[-1].facts == {"number": 5}


def test_a_crash_before_the_head_is_written_loses_nothing(log):
    head = log.with_name("audit.jsonl.head")
    before = head.read_text()
    audit.append(log, "judged", {"number": 5})
    head.write_text(before)
    assert len(audit.verify(log)) == 6
    assert audit.append(log, "judged", {"number": 6}).lines == 7


def test_a_log_without_its_head_is_refused(log):
    log.with_name("audit.jsonl.head").unlink()
    assert "audit.jsonl.head: missing" in broken(log)


def test_several_may_append_at_once(tmp_path):
    file = tmp_path / "audit.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: audit.append(file, "judged", {"number": number}), range(20)))
    assert sorted(entry.facts["number"] for entry in audit.verify(file)) == list(range(20))
