"""Refusals to resume, as a user reads them: the paths they name stand there, and the remedy works.

A folder at work is called otherwise while it is held, and messages are read afterwards.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from btm import steps
from btm.cli import main
from btm.data.batches import Batches
from btm.errors import UserError
from btm.train import checkpoint, loop, schedule
from btm.train.training import Training


@pytest.fixture
def half(copy, workspace, tmp_path):
    """Words of commands on a forest whose branch `new` is half trained."""
    config = copy("branch=copy", "trainer.steps=8", "trainer.carry=fresh")
    made = steps.branch(config, "new", "bible").path
    trainer = replace(config.trainer, checkpoint_every=2)
    shard = steps.open_suite(config).shard("bible", "train")
    batches = Batches([shard], trainer.seq_len, trainer.batch_size, trainer.seed)
    plan = schedule.Schedule.of(trainer, horizon=8)
    loop.train(Training(made, batches, trainer, plan, 4))
    for found in made.glob("checkpoint-*"):  # as one of the training of 8 steps
        state = json.loads((found / "state.json").read_text())
        state["settings"] |= {"steps": 8}
        (found / "state.json").write_text(json.dumps(state))
    words = ["trainer.steps=8", "trainer.carry=fresh", "trainer.checkpoint_every=2", "expert=new"]
    return [*workspace, f"forest={tmp_path / 'forest'}", *words]


def refusal(capsys, *words):
    """Run a command that is refused; return its last line, whose paths must all stand."""
    assert main.main(list(words)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    paths = [Path(found.rstrip(".:,")) for found in re.findall(r"/[^\s'\"();]+", said)]
    assert paths
    for path in paths:
        assert path.exists(), said
    assert "~" not in said and ".tmp-" not in said
    return said


def test_other_settings(half, tmp_path, capsys):
    said = refusal(capsys, "train", *half, "trainer.weight_decay=0.5")
    assert "weight_decay was 0.1, now 0.5" in said
    folder = tmp_path / "forest/branches/new"
    assert said.endswith(f"delete the checkpoints in {folder} to begin anew")
    for found in folder.glob("checkpoint-*"):
        shutil.rmtree(found)
    assert main.main(["train", *half, "trainer.weight_decay=0.5"]) == 0


def test_another_mix(copy):
    config = copy("branch=copy", "trainer.steps=2", "trainer.carry=fresh")
    made = steps.branch(config, "new", "bible").path
    trainer = replace(config.trainer, checkpoint_every=1)
    suite = steps.open_suite(config)
    shards = [suite.shard(domain, "train") for domain in ("bible", "speeches")]
    L, size, plan = trainer.seq_len, trainer.batch_size, schedule.Schedule.of(trainer, horizon=2)
    for sampling in (0.3, 0.3):
        batches = Batches(shards, L, size, trainer.seed, sampling=sampling)
        loop.train(Training(made, batches, trainer, plan, 2))
    with pytest.raises(UserError, match=r"other settings \(sampling was 0\.3, now null\)"):
        loop.train(Training(made, Batches(shards, L, size, trainer.seed), trainer, plan, 2))


def test_after_the_forest_moved(half, tmp_path, capsys):
    moved = Path(shutil.move(tmp_path / "forest", tmp_path / "elsewhere"))
    words = [f"forest={moved}" if word.startswith("forest=") else word for word in half]
    said = refusal(capsys, "train", *words, "trainer.batch_size=4")
    assert str(moved / "branches/new") in said and str(tmp_path / "forest") not in said


def test_a_damaged_checkpoint(half, tmp_path, capsys):
    newest = checkpoint.latest(tmp_path / "forest/branches/new")
    (newest / "state.json").write_text("{}")
    said = refusal(capsys, "train", *half)
    assert f"delete {newest.name} to go on" in said
    shutil.rmtree(newest)
    assert main.main(["train", *half]) == 0


def test_a_model_that_does_not_load(half, tmp_path, capsys):
    config = tmp_path / "forest/branches/new/config.json"
    config.write_text("{")
    assert str(config) in refusal(capsys, "train", *half)


def test_a_disk_error_names_the_folder_at_rest(half, tmp_path, capsys):
    """An error of the system's, not ours: a folder in place of a file."""
    metrics = tmp_path / "forest/branches/new/metrics.jsonl"
    metrics.unlink()
    metrics.mkdir()
    assert main.main(["train", *half]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert str(metrics) in said and "~" not in said
