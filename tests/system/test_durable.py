"""Files and folders appear whole or not at all."""

import errno
import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from btm.system import durable


def test_published_file_has_content_and_usual_mode(tmp_path):
    durable.write_json(tmp_path / "a" / "b.json", {"x": [1, "é"]})
    assert (tmp_path / "a" / "b.json").read_text() == '{\n "x": [\n  1,\n  "é"\n ]\n}\n'
    mode = stat.S_IMODE((tmp_path / "a" / "b.json").stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    assert mode == 0o666 & ~mask


def test_failed_write_leaves_the_old_file(tmp_path):
    durable.write_json(tmp_path / "f", 1)
    with pytest.raises(RuntimeError), durable.publish_file(tmp_path / "f") as handle:
        handle.write(b"half")
        raise RuntimeError
    assert (tmp_path / "f").read_text() == "1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_file_is_created_once(tmp_path):
    durable.write_json(tmp_path / "f", 1, replace=False)
    with pytest.raises(FileExistsError) as raised:
        durable.write_json(tmp_path / "f", 2, replace=False)
    assert raised.value.filename == str(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "1\n"
    assert (tmp_path / "f").stat().st_nlink == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_file_is_created_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    test_a_file_is_created_once(tmp_path)


@pytest.mark.parametrize("status", ["/proc/self/status", "/nowhere"])
def test_threads_that_publish_at_once_keep_the_umask(tmp_path, monkeypatch, status):
    """Reading a umask by setting it let one thread restore what another had set for a moment."""
    umask = os.umask

    def slow(mask):
        before = umask(mask)
        time.sleep(0.002)  # that moment
        return before

    monkeypatch.setattr(os, "umask", slow)
    monkeypatch.setattr(durable, "_STATUS", Path(status))

    def publish(number):
        for turn in range(5):
            durable.write_json(tmp_path / f"{number}-{turn}", 1)

    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(publish, range(8)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert (modes, len(list(tmp_path.iterdir()))) == ({0o640}, 40)


def test_nan_is_refused_as_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        durable.write_json(tmp_path / "f", float("nan"))
    assert not list(tmp_path.iterdir())


def test_folder_is_published_once(tmp_path):
    with durable.publish_folder(tmp_path / "d") as folder:
        (folder / "x").write_text("first")
    with pytest.raises(FileExistsError), durable.publish_folder(tmp_path / "d") as folder:
        (folder / "x").write_text("second")
    assert (tmp_path / "d" / "x").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_folder_is_replaced_when_asked(tmp_path):
    for text in ("first", "second"):
        with durable.publish_folder(tmp_path / "d", replace=True) as folder:
            (folder / text).write_text(text)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["second"]


def test_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), durable.publish_folder(tmp_path / "d") as folder:
        (folder / "x").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_append_cuts_off_a_torn_line(tmp_path):
    file = tmp_path / "log"
    durable.append_line(file, "one")
    with file.open("a") as handle:
        handle.write("tor")
    durable.append_line(file, "two")
    assert file.read_text() == "one\ntwo\n"


def test_sweep_takes_the_dead_and_spares_the_living(tmp_path):
    mine = durable.scratch_folder(tmp_path)
    dead = tmp_path / mine.name.replace(str(os.getpid()), str(2**22 + 1))
    dead.mkdir()
    (dead / "x").write_text("")
    foreign = tmp_path / mine.name.replace(socket.gethostname(), "elsewhere")
    foreign.mkdir()
    dead_file = tmp_path / (dead.name + "f")
    dead_file.write_text("")
    assert sorted(durable.sweep(tmp_path)) == sorted([dead, dead_file])
    assert mine.exists()
    assert foreign.exists()
    assert durable.sweep(tmp_path / "missing") == []


def test_no_space_is_said_before_the_work(tmp_path):
    durable.require_space(tmp_path / "new" / "folder", 1)
    with pytest.raises(OSError, match="needed") as caught:
        durable.require_space(tmp_path, 10**18)
    assert caught.value.errno == errno.ENOSPC


def test_sweep_takes_what_another_machine_has_not_written_to_for_a_day(tmp_path):
    name = durable.scratch_folder(tmp_path).name.replace(socket.gethostname(), "elsewhere")
    old, fresh = tmp_path / f"{name}-old", tmp_path / f"{name}-fresh"
    for folder in (old, fresh):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/file").write_text("")
    day_ago = time.time() - 90_000
    for path in (old / "deep/file", old / "deep", old, fresh / "deep", fresh):
        os.utime(path, (day_ago, day_ago))
    assert durable.sweep(tmp_path) == [old]
