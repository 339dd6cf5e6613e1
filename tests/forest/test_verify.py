"""Every byte that flips, every file that is cut off, missing or new is found; and what is whole has
no finding.
"""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
from folders import ROOT

from btm.cli import main
from btm.errors import UserError
from btm.forest import Forest, verify
from btm.system import sums

SCRIPT = ROOT / "scripts" / "bench" / "corruption.py"
CORRUPTIONS = 500


@pytest.fixture
def root(grown, tmp_path):
    return shutil.copytree(grown[0].forest_root, tmp_path / "forest")


def problems(root, **chosen):
    return [(f.what, f.problem) for f in verify.verify(root, full=True, **chosen) if not f.note]


def test_what_is_whole_has_no_finding(root):
    assert verify.verify(root) == verify.verify(root, full=True) == []


def test_the_sums_are_what_sha256sum_checks(root):
    for folder in [*(root / "elms").iterdir(), root / "averages/uniform", root / "tokenizer"]:
        done = subprocess.run(
            ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, capture_output=True
        )
        assert done.returncode == 0, done.stdout
        listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        assert listed | {"SHA256SUMS"} == {
            p.relative_to(folder).as_posix() for p in folder.rglob("*")
        }


@pytest.mark.slow
def test_five_hundred_seeded_corruptions_are_all_found(root):
    spec = importlib.util.spec_from_file_location("corruption", SCRIPT)
    corruption = importlib.util.module_from_spec(spec)
    sys.modules["corruption"] = corruption
    spec.loader.exec_module(corruption)
    counts, missed = corruption.trials(root, CORRUPTIONS, seed=1)
    assert missed == []
    assert sum(counts.values()) == CORRUPTIONS
    assert len(counts) == len(corruption.KINDS)
    assert verify.verify(root, full=True) == []  # each was put back
    del sys.modules["corruption"]


@pytest.mark.parametrize(
    "name", ["forest.json", "tokenizer/tokenizer.json", "elms/bible/SHA256SUMS"]
)
def test_every_single_byte_of_the_small_files_that_others_stand_on(root, name):
    file = root / name
    whole = file.read_bytes()
    only = "bible" if name.startswith("elms") else None
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        assert problems(root, only=only), at
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert problems(root, only=only), size
    file.unlink()
    assert problems(root, only=only)


def test_a_list_with_a_line_less_does_not_hide_a_file(root):
    file = root / "elms/bible/SHA256SUMS"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    assert any("not listed" in problem for _, problem in problems(root))


def test_sizes_and_headers_are_looked_at_without_full(root):
    weights = root / "elms/bible/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert any("truncated" in finding.problem for finding in verify.verify(root))


def test_lineage_that_contradicts_the_forest(root):
    shutil.rmtree(root / "elms/bible")
    assert any("'bible' is neither there nor removed" in problem for _, problem in problems(root))
    shutil.copytree(root / "elms/seed", root / "elms/bible")
    found = problems(root)
    assert any("is not the one that stands there now" in problem for _, problem in found)
    assert any("it is the card of 'seed'" in problem for _, problem in found)


def test_an_elm_from_before_the_sums_is_checked_by_its_card(root):
    folder = root / "elms/bible"
    (folder / sums.NAME).unlink()
    assert problems(root)  # its card says that it has one
    card = json.loads((folder / "card.json").read_text())
    del card["sums"]
    (folder / "card.json").write_text(json.dumps(card))
    assert not problems(root)
    assert any(finding.note and "made before" in finding.problem for finding in verify.verify(root))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert any("not those that its card names" in problem for _, problem in problems(root))


def test_a_list_that_leads_out_of_its_folder_is_refused(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  ../x\n")
    with pytest.raises(UserError, match="leads out"):
        sums.read(tmp_path)


@pytest.mark.slow
def test_damage_is_exit_code_1_with_a_remedy(root, workspace, capsys):
    words = [*workspace, f"forest={root}"]
    assert main.main(["verify", "--full", *words]) == 0
    assert "as it was sealed" in capsys.readouterr().out
    assert main.main(["verify", *words, "expert=bible"]) == 0
    (root / "elms/bible/README.md").write_text("changed")
    (root / "removed/old").mkdir(parents=True)
    capsys.readouterr()
    assert main.main(["verify", "--json", *words]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["what"] for row in rows} == {"elms/bible/README.md", "removed/old"}
    assert all(row["remedy"] and row["is"] == "DAMAGE" for row in rows)
    (root / "forest.json").unlink()
    assert main.main(["verify", *words]) == 1
    assert main.main(["verify", *words, "expert=none"]) == 2
    assert main.main(["verify", f"forest={root / 'nowhere'}"]) == 2


@pytest.mark.parametrize("word", ["expert=uniform", "average=uniform"])
def test_one_average_alone(word, root, workspace, capsys):
    words = ["verify", "--json", *workspace, f"forest={root}"]
    (root / "elms/bible/README.md").write_text("changed")  # of another model: not looked at
    assert main.main([*words, word]) == main.main([*words, "--full", word]) == 0
    folder = root / "averages/uniform"
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert main.main([*words, word]) == 0  # its size and its header are as they were
    capsys.readouterr()
    assert main.main([*words, "--full", word]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["what"] == "averages/uniform/model.safetensors"
    assert "btm average average.name=uniform" in row["remedy"]
    file.write_bytes(content[:-1])
    (folder / "card.json").write_text("{")
    assert main.main([*words, word]) == 1
    found = {(r["what"], r["problem"]) for r in json.loads(capsys.readouterr().out)}
    assert any(what == "averages/uniform/card.json" for what, _ in found)
    assert any("truncated" in problem for _, problem in found)


def test_a_name_of_nothing_is_told_with_elms_and_averages(root):
    with pytest.raises(UserError, match=r"no model 'unifrom' .*'uniform'.*have: bible, .*uniform"):
        verify.verify(root, only="unifrom")
    with pytest.raises(UserError, match=r"no average 'bible' .*have: uniform"):
        verify.verify(root, only="averages/bible")
    shutil.copytree(root / "averages/uniform", root / "averages/bible")
    assert {f.what for f in verify.verify(root, only="averages/bible")} == {
        "averages/bible/card.json"
    }
    assert verify.verify(root, only="bible") == []
    assert verify.size(root, "averages/bible") < verify.size(root)


def test_a_card_of_other_types_is_no_traceback(root):
    folder = root / "elms/bible"
    for key, value in {
        "tokens": "x",
        "parents": {"seed": {"weight": "1", "raw": 1, "sha256": ""}},
        "data": [1],
    }.items():
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {key: value}))
        assert any("not a valid card" in problem for _, problem in problems(root))
        assert "bible" in Forest(root).names()
