"""push, pull and ls against a real S3 server on loopback (scripts/s3_server)."""

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from folders import ROOT, uncovered

from btm.cli.main import main
from btm.errors import UserError
from btm.forest import Forest
from btm.interop.remote import manifest as manifests
from btm.interop.remote import places, urls
from btm.interop.remote.manifest import Content
from btm.system import sums

pytestmark = [pytest.mark.slow, pytest.mark.traced]

HOME = "bucket/forest"


def btm(*words):
    return main(list(words))


def push(forest, *words):
    return btm("push", f"forest={forest.root}", f"to=s3://{HOME}", *words)


def pull(root, *words):
    return btm("pull", f"forest={root}", f"from=s3://{HOME}", *words)


def test_a_forest_goes_there_and_comes_back(s3, forest, tmp_path, capsys):
    assert push(forest, "--json") == 0
    sent = json.loads(capsys.readouterr().out)["models"]
    assert [each["state"] for each in sent] == ["pushed"] * 5
    assert btm("ls", f"forest=s3://{HOME}", "ls.parent=seed", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == ["bible", "code_python"]
    assert pull(tmp_path / "new") == 0
    new = Forest(tmp_path / "new")
    assert {e.name: e.card.sha256 for e in new.elms()} == {
        e.name: e.card.sha256 for e in forest.elms()
    }
    assert btm("verify", f"forest={new.root}", "--full") == 0
    capsys.readouterr()
    assert push(forest, "--json") == 0
    assert [each["sent"] for each in json.loads(capsys.readouterr().out)["models"]] == [0] * 5


def test_what_is_missing_of_a_model_travels(s3, forest, capsys):
    assert push(forest, "expert=bible", "--json") == 0
    whole = json.loads(capsys.readouterr().out)["models"][0]
    (weights,) = s3.glob(f"{HOME}/elms/bible/*/model.safetensors")
    s3.rm([weights, f"{HOME}/elms/bible/manifest.json"])
    assert push(forest, "expert=bible", "--json") == 0
    again = json.loads(capsys.readouterr().out)["models"][0]
    assert again["sent"] == (forest["bible"].path / "model.safetensors").stat().st_size
    assert again["sent"] < whole["sent"]


def test_of_racing_pushers_one_wins(s3):
    """Thirty-two write different manifests of one name at once."""
    place = places.open_place(urls.read(f"s3://{HOME}", "to"))

    def write(number):
        return number if place.create("elms/law/manifest.json", b"%d" % number) else None

    with ThreadPoolExecutor(32) as pool:
        won = [number for number in pool.map(write, range(32)) if number is not None]
    assert len(won) == 1 and s3.cat_file(f"{HOME}/elms/law/manifest.json") == b"%d" % won[0]


def test_a_manifest_is_replaced_only_as_it_was_seen(s3):
    place = places.open_place(urls.read(f"s3://{HOME}", "to"))
    assert place.create("a/manifest.json", b"first")
    seen = place.read("a/manifest.json", 100)
    assert place.replace("a/manifest.json", b"second", seen)
    assert not place.replace("a/manifest.json", b"third", seen)
    assert place.read("a/manifest.json", 100).content == b"second"


def test_another_elm_of_that_name_loses(s3, forest, copy, capsys):
    assert push(forest, "expert=bible") == 0
    other = Forest(copy().forest_root)
    shutil.rmtree(other.root / "elms/bible")
    shutil.copytree(other.root / "elms/speeches", other.root / "elms/bible")
    card = other.root / "elms/bible/card.json"
    card.write_text(card.read_text().replace('"name": "speeches"', '"name": "bible"'))
    sums.write(other.root / "elms/bible")
    before = s3.cat_file(f"{HOME}/elms/bible/manifest.json")
    capsys.readouterr()
    assert push(other, "expert=bible") == 2
    assert "ELMs are never replaced" in capsys.readouterr().err
    assert s3.cat_file(f"{HOME}/elms/bible/manifest.json") == before


def test_large_files_travel_in_parts_and_hashed(s3, tmp_path):
    """Six parts of 16 MiB and a rest; one wrong byte and nothing appears."""
    data = np.random.default_rng(0).integers(0, 256, 6 * (16 << 20) + 12345, np.uint8).tobytes()
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    expected = Content(sums.file_sha256(file), len(data))
    place, told = places.open_place(urls.read(f"s3://{HOME}", "to")), []
    place.send(file, "large/whole", expected, told.append)
    assert sum(told) == len(data) and s3.size(f"{HOME}/large/whole") == len(data)
    assert b"".join(place.fetch("large/whole", 1000, len(data))) == data[1000:]
    with pytest.raises(UserError, match="not the bytes of its SHA256SUMS"):
        place.send(file, "large/other", replace(expected, sha256="0" * 64), told.append)
    with pytest.raises(UserError, match="not the bytes of its SHA256SUMS"):
        place.send(file, "large/longer", Content(expected.sha256, len(data) - 1), told.append)
    assert place.sizes("large") == {"whole": len(data)}


def test_a_bucket_that_holds_other_bytes_is_refused(s3, forest, tmp_path, capsys):
    assert push(forest, "expert=bible") == 0
    (weights,) = s3.glob(f"{HOME}/elms/bible/*/model.safetensors")
    data = bytearray(s3.cat_file(weights))
    data[-1] ^= 1
    s3.pipe_file(weights, bytes(data))
    assert pull(tmp_path / "new", "expert=bible") == 2
    assert "its bytes are not those of its manifest" in capsys.readouterr().err
    assert not list((tmp_path / "new").rglob("*.safetensors*"))
    s3.pipe_file(weights, bytes(data[:-1]))
    assert pull(tmp_path / "new", "expert=bible") == 2
    assert "the manifest says" in capsys.readouterr().err


def refused(capsys, wanted, *words):
    assert btm(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and wanted in error, error


def test_credentials_and_buckets_that_are_wrong(s3, forest, capsys, monkeypatch, tmp_path):
    words = ("push", f"forest={forest.root}", "to=s3://nowhere/forest", "expert=bible")
    refused(capsys, "bucket", *words)
    refused(capsys, "no forest there", "ls", "forest=s3://bucket/nothing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused(capsys, "access denied", *words)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(capsys, "credentials", *words)


def test_two_pushes_of_one_model_at_once(s3, forest, capsys):
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(push(forest, "average=uniform")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    content = s3.cat_file(f"{HOME}/averages/uniform/manifest.json")
    assert manifests.parse(content, "averages", "uniform", "there").name == "uniform"


@pytest.mark.slow
def test_a_server_that_dies_while_it_is_sent_to(s3, s3_server, copy):
    """kill -9 of the server, in the middle: one line, exit 2, no manifest; the same command ends
    the work when the server is back.
    """
    root = Path(copy().forest_root)
    # A file of the ELM's tokenizer that takes the server a while.
    blob = np.random.default_rng(1).integers(0, 256, 100 << 20, np.uint8)
    (root / "elms/bible/tokenizer.model").write_bytes(blob.tobytes())
    sums.write(root / "elms/bible")
    words = [sys.executable, "-m", "btm.cli", "push", f"forest={root}", "expert=bible"]
    words += [f"to=s3://{HOME}"]
    environment = uncovered() | s3_server.credentials | {"PYTHONPATH": str(ROOT)}
    environment["AWS_MAX_ATTEMPTS"] = "1"  # s3fs itself tries five times
    before = used(s3_server.folder)
    running = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while used(s3_server.folder) < before + (20 << 20):  # it has begun to send
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    s3_server.kill()
    _, said = running.communicate(timeout=120)
    assert running.returncode == 2 and said.count("\n") == 1 and said.startswith("btm: to=s3")
    s3_server.start()
    assert not s3.exists(f"{HOME}/elms/bible/manifest.json")
    while (ran := subprocess.run(words, env=environment, capture_output=True)).returncode:
        assert time.monotonic() < deadline + 60, ran.stderr  # its volumes come back one by one
        time.sleep(0.5)
    assert s3.exists(f"{HOME}/elms/bible/manifest.json")


def used(folder):
    """The bytes that the server has written; a volume is given its room before it is used."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())
