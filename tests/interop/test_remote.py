"""push, pull and ls with file:// URLs, and what a remote may say that is not so."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import ROOT, tree, uncovered

from btm import steps
from btm.cli.compose import compose
from btm.cli.main import main
from btm.forest import Forest
from btm.forest import delta as sparse
from btm.forest.card import Card
from btm.interop.remote import manifest as manifests
from btm.system import sums


@pytest.fixture
def remote(tmp_path):
    return tmp_path / "remote"


def push(forest, remote, *words):
    return main(["push", f"forest={forest.root}", f"to=file://{remote}", *words])


def pull(root, remote, *words):
    return main(["pull", f"forest={root}", f"from=file://{remote}", *words])


def refused(capsys, wanted, code):
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert code == 2 and last.startswith("btm: ") and wanted in last, error


def test_a_forest_comes_back_with_weights_lineage_and_cost(forest, remote, tmp_path, capsys):
    assert push(forest, remote) == 0
    assert pull(tmp_path / "new", remote) == 0
    new = Forest(tmp_path / "new")
    assert new.names() == forest.names()
    for elm in forest.elms():
        card = new[elm.name].card
        same = ("sha256", "domains", "parents", "ancestors", "total_tokens", "data", "settings")
        for field in same:
            assert getattr(card, field) == getattr(elm.card, field), field
        # The sender's loss is hearsay, and no text is prepared here to measure it on.
        assert card.valid_nats is None and any("the sender measured" in n for n in card.notes)
    ours, theirs = (Card.read(f.paths.average("uniform").card) for f in (forest, new))
    assert (ours.sha256, ours.recipe) == (theirs.sha256, theirs.recipe)
    assert main(["verify", f"forest={new.root}", "--full"]) == 0
    assert {p.name for p in new.paths.trained_ons()} == {p.name for p in forest.paths.trained_ons()}
    before, there = tree(new.root), tree(remote)
    assert push(forest, remote) == 0 and pull(new.root, remote) == 0
    assert tree(new.root) == before and tree(remote) == there
    assert push(new, remote) == 0 and tree(remote) == there  # the same weights: nothing to send


def test_a_pulled_expert_is_measured_here(copy, workspace, forest, remote, tmp_path):
    """Where its text is prepared and its parents stand, its loss is our own."""
    assert push(forest, remote) == 0
    root = tmp_path / "new"
    words = [word for word in workspace if not word.startswith("forest=")]
    for name in ("seed", "bible"):
        assert pull(root, remote, f"expert={name}", *words) == 0
    ours = forest["bible"].card
    theirs = Forest(root)["bible"].card
    assert theirs.valid_nats == pytest.approx(ours.valid_nats, abs=1e-6)
    assert theirs.parent_valid_nats.keys() == {"seed"}


def test_differences_travel_where_the_parents_stand(copy, workspace, remote, tmp_path, capsys):
    config = copy("trainer.delta_density=0.05", "expert=novels", "domain=novels", "branch=copy")
    steps.branch(config, "novels", "novels")
    steps.train(config, "novels")
    steps.merge(compose([*workspace, f"forest={config.forest_root}", "merge.force=true"]), "novels")
    here = Forest(config.forest_root)
    refused(capsys, "does not stand there", push(here, remote, "expert=novels", "push.as=delta"))
    refused(capsys, "push.as=full", push(here, remote, "expert=bible", "push.as=delta"))
    assert not remote.exists()
    for name in ("seed", "bible", "code_python"):
        assert push(here, remote, f"expert={name}") == 0
    capsys.readouterr()
    assert push(here, remote, "push.as=delta", "--json") == 0
    ways = {row["model"]: row["way"] for row in json.loads(capsys.readouterr().out)["models"]}
    assert ways["elms/novels"] == "delta" and ways["elms/speeches"] == "full"
    shutil.rmtree(remote / "elms/speeches")
    assert push(here, remote, "expert=speeches", "push.as=delta8", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    whole = (here["speeches"].path / "model.safetensors").stat().st_size
    assert row["way"] == "delta8" and row["bytes"] < 0.6 * whole
    # A child of what arrives changed cannot be a difference from it.
    root = tmp_path / "new"
    assert pull(root, remote, "expert=novels", "merge.force=true") == 0
    new = Forest(root)
    assert new.names() == ["novels", "seed"]  # its parent came with it
    assert new["novels"].card.sha256 == here["novels"].card.sha256
    assert (new["novels"].path / sparse.FILE).is_file()
    assert pull(root, remote, "expert=speeches", "merge.force=true") == 0
    assert new["speeches"].card.sha256 != here["speeches"].card.sha256
    assert pull(root, remote, "expert=speeches") == 0  # stands there


def test_ls_of_a_url(forest, remote, capsys):
    assert push(forest, remote) == 0
    capsys.readouterr()
    assert main(["ls", f"forest=file://{remote}", "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(["ls", f"forest={forest.root}", "--json"]) == 0
    assert there == json.loads(capsys.readouterr().out)
    assert main(["ls", f"forest=file://{remote}", "ls.ancestor=bible", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["speeches", "uniform"]
    (remote / "elms/bible/manifest.json").write_bytes(b"{")
    assert main(["ls", f"forest=file://{remote}", "ls.state=damaged", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["bible"]
    refused(capsys, "ls.removed", main(["ls", f"forest=file://{remote}", "ls.removed=true"]))


def test_dry_run_says_what_travels(forest, remote, tmp_path, capsys):
    words = ["push", f"forest={forest.root}", f"to=file://{remote}", "--dry-run", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert not remote.exists() and len(rows) == 5
    assert all(row["what"].startswith("to be sent") for row in rows)
    assert push(forest, remote) == 0
    capsys.readouterr()
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["what"].startswith("stands") for row in rows)
    words = ["pull", f"forest={tmp_path / 'new'}", f"from=file://{remote}", "--dry-run", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["writes"] == [str(tmp_path / "new/elms/seed")]
    assert not (tmp_path / "new").exists()


def test_an_average_is_replaced_when_asked(copy, remote, capsys):
    config = copy()
    here = Forest(config.forest_root)
    assert push(here, remote, "average=uniform") == 0
    steps.average(copy_words(config, "weights={bible: 0.9, code_python: 0.1}"))
    refused(capsys, "push.replace=true", push(here, remote, "average=uniform"))
    assert push(here, remote, "average=uniform", "push.replace=true") == 0
    found = read(remote, "averages/uniform")
    assert found.sha256 == Card.read(here.paths.average("uniform").card).sha256


def test_a_mixture_of_experts_travels_to_a_forest_of_its_experts(copy, remote, capsys):
    config = copy()
    here = Forest(config.forest_root)
    words = [f"forest={here.root}", f"data.out={config.data.out}", "average.measure=false"]
    assert main(["moe", "experiment=smoke", *words, "moe=drawn", "moe.router=random"]) == 0
    assert push(here, remote, "moe=drawn") == 0
    there = here.root.with_name("there")
    shutil.copytree(here.root, there, ignore=shutil.ignore_patterns("moes"))
    assert pull(there, remote, "moe=drawn") == 0
    sent, came = (root / "moes" / "drawn" for root in (here.root, there))
    assert (came / "model.safetensors").read_bytes() == (sent / "model.safetensors").read_bytes()
    assert "A mixture of experts (MoE)" in (came / "README.md").read_text()
    assert main(["verify", f"forest={there}", "--full"]) == 0
    refused(capsys, "only an ELM", push(here, remote, "moe=drawn", "push.as=delta8"))
    refused(capsys, "no MoE 'drown'", pull(there, remote, "moe=drown"))
    refused(capsys, "give one of them", push(here, remote, "moe=drawn", "expert=bible"))


def copy_words(config, *words):
    return compose(
        [f"forest={config.forest_root}", "average.name=uniform", "average.measure=false", *words]
    )


def read(remote, home):
    place, _, name = home.partition("/")
    return manifests.parse((remote / home / manifests.NAME).read_bytes(), place, name, home)


def test_a_damaged_elm_is_not_sent(copy, remote, capsys):
    here = Forest(copy().forest_root)
    weights = here["bible"].path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(capsys, "not the bytes of its SHA256SUMS", push(here, remote, "expert=bible"))
    assert not list(remote.rglob("model.safetensors")) and not list(remote.rglob("manifest.json"))


def outside(manifest):
    """Name a file that leads out of the folder."""
    content = manifest["files"].pop("config.json")
    manifest["files"]["../../../../outside"] = content


def absolute(manifest):
    manifest["files"]["/etc/passwd"] = manifest["files"].pop("config.json")


def huge(manifest):
    manifest["files"]["model.safetensors"]["size"] = 1 << 49


def endless(manifest):
    manifest["files"]["model.safetensors"]["size"] = 1 << 60


def no_sum(manifest):
    manifest["files"]["model.safetensors"]["sha256"] = "../" * 21 + "x"


def other_name(manifest):
    manifest["card"]["name"] = "law"


def other_card(manifest):
    manifest["card"]["sha256"] = "0" * 64


def parent_path(manifest):
    (parent,) = manifest["card"]["parents"].values()
    manifest["card"]["parents"] = {"../seed": parent}


def newer(manifest):
    manifest["schema"] = 2


def no_files(manifest):
    manifest["files"] = {}


def unknown_way(manifest):
    manifest["as"] = "pickle"


def negative(manifest):
    manifest["files"]["model.safetensors"]["size"] = -1


LIES = {
    outside: "no name of a file",
    absolute: "no name of a file",
    huge: "bytes of disk",
    endless: "its size is",
    no_sum: "no sha256",
    other_name: "it is of 'law'",
    other_card: "other weights",
    parent_path: "no valid name",
    newer: "newer btm",
    no_files: "1 to 2,000 files",
    unknown_way: "wanted full",
    negative: "its size is",
}


@pytest.fixture(scope="module")
def pushed(grown, tmp_path_factory):
    place = tmp_path_factory.mktemp("pushed") / "remote"
    assert push(Forest(grown[0].forest_root), place) == 0
    return place


@pytest.fixture
def lying(pushed, remote):
    """A copy of a remote whose files a test may change."""
    return Path(shutil.copytree(pushed, remote))


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_lies_of_a_manifest(lying, tmp_path, capsys, lie):
    file = lying / "elms/bible/manifest.json"
    values = json.loads(file.read_text())
    lie(values)
    file.write_text(json.dumps(values))
    refused(capsys, LIES[lie], pull(tmp_path / "new", lying, "expert=bible"))
    assert not (tmp_path / "new").exists() and not (tmp_path / "outside").exists()


def test_lies_of_files(lying, tmp_path, capsys):
    root, home = tmp_path / "new", lying / "elms/bible"
    weights = next(home.glob("*/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(capsys, "not those of its manifest", pull(root, lying, "expert=bible"))
    weights.write_bytes(data + b"more")
    refused(capsys, "the manifest says", pull(root, lying, "expert=bible"))
    weights.unlink()
    refused(capsys, "no such file", pull(root, lying, "expert=bible"))
    (tmp_path / "secret").write_bytes(data)
    weights.symlink_to(tmp_path / "secret")
    refused(capsys, "a link that leads out", pull(root, lying, "expert=bible"))
    assert not (root / "elms").exists() and not (root / "forest.json").exists()


def rewritten(remote, home, name, content):
    """Let a remote hold other content for a file, with a manifest that is true to it."""
    made = read(remote, home)
    values = json.loads(made.to_bytes())
    folder = remote / made.folder
    (folder / name).write_bytes(content)
    values["files"][name] = {
        "sha256": sums.file_sha256(folder / name),
        "size": len(content),
    }
    (remote / home / manifests.NAME).write_text(json.dumps(values))
    folder.rename(remote / read(remote, home).folder)


def test_what_is_true_to_its_sums_is_looked_at_like_an_import(lying, tmp_path, capsys):
    """Remote code, and weights that are not those of the card, in an honest envelope."""
    root = tmp_path / "new"
    config = json.loads(next(lying.glob("elms/bible/*/config.json")).read_text())
    code = config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    rewritten(lying, "elms/bible", "config.json", json.dumps(code).encode())
    refused(capsys, "code", pull(root, lying, "expert=bible"))
    rewritten(lying, "elms/bible", "config.json", json.dumps(config).encode())
    other = next(lying.glob("elms/seed/*/model.safetensors")).read_bytes()
    rewritten(lying, "elms/bible", "model.safetensors", other)
    refused(capsys, "its manifest says", pull(root, lying, "expert=bible"))
    assert not Forest.stands(root) or not Forest(root).names()
    assert not list(root.rglob("branches/*")) and not list(root.rglob("pulls/*"))


def test_another_forest_is_refused(lying, tmp_path, forest, capsys):
    facts = json.loads((lying / "forest.json").read_text())
    (lying / "forest.json").write_text(json.dumps(facts | {"tokenizer_sha256": "0" * 64}))
    refused(capsys, "another tokenizer", push(forest, lying))
    refused(capsys, "forest.json says", pull(tmp_path / "new", lying, "expert=bible"))
    (lying / "forest.json").write_bytes(b"\xff{")
    refused(capsys, "no remote forest of btm", pull(tmp_path / "new", lying))
    (lying / "forest.json").unlink()
    refused(capsys, "no forest there", pull(tmp_path / "new", lying))


URLS = {
    "s4://bucket/forest": "unknown scheme",
    "bucket/forest": "no URL",
    "s3://user:secret@bucket/forest": "with credentials",
    "s3://bucket/../forest": "no name of a folder",
    "s3://bucket/a?versionId=1": "? or #",
    "s3:///forest": "no name of a bucket",
    "file://experts/demo": "three slashes",
    "file:///": "three slashes",
}


@pytest.mark.parametrize("url", URLS)
def test_urls_that_are_wrong(forest, capsys, url):
    code = main(["push", f"forest={forest.root}", f"to={url}"])
    error = capsys.readouterr().err
    assert code == 2 and URLS[url] in error and "secret" not in error and error.count("\n") == 1


def test_words_without_effect_or_sense(forest, remote, capsys):
    both = ("expert=bible", "average=uniform")
    refused(capsys, "give one of them", push(forest, remote, *both))
    refused(capsys, "no ELM 'bibel'", push(forest, remote, "expert=bibel"))
    refused(capsys, "push.as=delta8", push(forest, remote, "export.block=64"))
    refused(capsys, "does not read", push(forest, remote, "export.dtype=bf16"))
    refused(
        capsys,
        "only an ELM has a difference",
        push(forest, remote, "average=uniform", "push.as=delta"),
    )
    refused(capsys, "in a folder", main(["show", f"forest=file://{remote}", "expert=bible"]))
    refused(capsys, "from is missing", main(["pull", f"forest={forest.root}"]))
    assert push(forest, remote, "expert=bible") == 0
    refused(capsys, "no ELM 'seed'", pull(remote / "new", remote, "expert=seed"))


@pytest.mark.slow
def test_a_pull_that_is_killed_goes_on(copy, remote, tmp_path, capsys):
    """SIGKILL in the middle: nothing of the model shows, and what was fetched is not fetched
    again.
    """
    here = Forest(copy().forest_root)
    with (here["bible"].path / "tokenizer.model").open("wb") as file:
        file.truncate(128 << 20)
    sums.write(here["bible"].path)
    assert push(here, remote, "expert=bible") == 0
    root = tmp_path / "new"
    words = [sys.executable, "-m", "btm.cli", "pull", f"forest={root}", f"from=file://{remote}"]
    environment = uncovered() | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([*words, "expert=bible"], env=environment)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 16 << 20 for p in root.glob("pulls/*/tokenizer.model.part")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (root / "elms").exists() and not (root / "forest.json").exists()
    capsys.readouterr()
    assert pull(root, remote, "expert=bible", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert row["state"] == "pulled" and row["fetched"] < row["bytes"] - (16 << 20)
    assert not (root / "pulls").exists()
