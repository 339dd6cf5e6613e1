"""btm import and export, format=fairseq: fairseq's own checkpoints in, checkpoints for
fairseq out.
"""

import shutil

import numpy as np
import pytest
import torch

from btm.cli import main
from btm.fairseq import checkpoint
from btm.forest import Forest


@pytest.mark.parametrize("name", ["gpt", "gpt3"])
def test_a_checkpoint_becomes_a_seed_and_goes_back(name, place, tmp_path, capsys):
    source, root = place / "models" / name, tmp_path / "forest"
    words = ["format=fairseq", f"forest={root}"]
    assert main.main(["import", *words, f"from={source}", "name=seed"]) == 0, (
        capsys.readouterr().err
    )
    elm = Forest(root)["seed"]
    assert elm.card.source == str(source)
    with torch.no_grad():
        found = elm.load()(input_ids=torch.from_numpy(np.load(place / "inputs.npy"))).logits.numpy()
    assert np.abs(found - np.load(source / "logits.npy")).max() <= 1e-5
    assert main.main(["export", *words, "expert=seed", f"to={tmp_path / 'back'}"]) == 0, (
        capsys.readouterr().err
    )
    before = checkpoint.read(checkpoint.find(source), tmp_path).parameters
    after = checkpoint.read(checkpoint.find(tmp_path / "back"), tmp_path).parameters
    shared = before.keys() & after.keys()
    assert len(shared) > 20
    assert all(torch.equal(before[key].float(), after[key].float()) for key in shared)
    assert sorted(path.name for path in root.parent.iterdir()) == ["back", "forest"]


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys):
    for words, message in [
        (["import", f"from={tmp_path / 'nothing.pt'}", "name=seed"], "no such file or folder"),
        (["import", f"from={tmp_path}", "name=seed"], "dict.txt"),
    ]:
        assert main.main([*words, "format=fairseq", f"forest={tmp_path / 'forest'}"]) == 2
        said = capsys.readouterr().err
        assert message in said or "checkpoint" in said
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_with_a_model_is_said_of_the_file_given(place, tmp_path, capsys):
    """The folder that it was converted into is gone by then."""
    source = tmp_path / "gpt"
    shutil.copytree(place / "models/gpt", source)
    found = checkpoint.find(source)
    state = torch.load(found, weights_only=True)
    matrix = next(name for name in state["model"] if name.endswith("fc1.weight"))
    state["model"][matrix][0, 0] = float("nan")
    torch.save(state, found)
    words = ["format=fairseq", f"from={source}", f"forest={tmp_path / 'forest'}"]
    assert main.main(["import", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"btm: {source}: a NaN") and ".tmp-" not in said
