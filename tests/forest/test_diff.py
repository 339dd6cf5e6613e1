"""Distances against torch's own, on real models; what only one of two has; and what an expert began
with.
"""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from btm.cli import main
from btm.forest import Forest, diff


def flat(path):
    return {name: tensor.double() for name, tensor in load_file(path / "model.safetensors").items()}


def test_distances_are_those_of_torch(forest):
    ours, theirs = flat(forest["bible"].path), flat(forest["seed"].path)
    found = diff.compare(forest, "bible", "seed", "tensor")
    assert {row["tensor"] for row in found.tensors} == set(ours)
    for row in found.tensors:
        a, b = ours[row["tensor"]], theirs[row["tensor"]]
        assert row["distance"] == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-9)
        assert row["largest"] == pytest.approx(float((a - b).abs().max()))
    a, b = (torch.cat([t.flatten() for _, t in sorted(x.items())]) for x in (ours, theirs))
    assert found.distance == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-9)
    modules = {
        row["module"]: row for row in diff.compare(forest, "bible", "seed", "module").tensors
    }
    assert "model.layers.0.self_attn.q_proj" in modules
    assert {"name", "domains"} <= {row["field"] for row in found.fields}


def test_against_nothing_it_is_what_the_expert_began_with(forest):
    parents = forest["speeches"].card.parents
    assert len(parents) == 2
    mean = None
    for name, parent in parents.items():
        part = {k: parent.weight * t for k, t in flat(forest[name].path).items()}
        mean = part if mean is None else {k: mean[k] + t for k, t in part.items()}
    ours = flat(forest["speeches"].path)
    far = math.sqrt(sum(float(((ours[k] - mean[k]) ** 2).sum()) for k in ours))
    base = math.sqrt(sum(float((t**2).sum()) for t in mean.values()))
    found = diff.compare(forest, "speeches", None, "module")
    assert found.distance == pytest.approx(far / base, rel=1e-9)
    assert found.other.label == "the average of its parents"


def test_an_elm_does_not_differ_from_itself(forest):
    found = diff.compare(forest, "bible", "bible", "tensor")
    assert found.distance == 0
    assert found.fields == []
    assert all(row["distance"] == row["largest"] == 0 for row in found.tensors)


def test_tensors_that_only_one_has_and_other_shapes(copy):
    forest = Forest(copy().forest_root)
    file = forest["bible"].path / "model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    other = sorted(tensors)[-1]
    tensors["extra"] = torch.zeros(3)
    tensors[name] = torch.zeros(2, 2)
    del tensors[other]
    save_file(tensors, file)
    rows = {row["tensor"]: row for row in diff.compare(forest, "bible", "seed", "tensor").tensors}
    assert rows["extra"]["shape"] == "only in bible"
    assert rows[other]["shape"] == "only in seed"
    assert "against" in rows[name]["shape"]
    assert rows[name]["distance"] is None


def test_the_verb(copy, workspace, capsys):
    config = copy()
    words = [*workspace, f"forest={config.forest_root}"]
    assert main.main(["diff", *words, "expert=bible", "against=seed"]) == 0
    out = capsys.readouterr().out
    assert "q_proj" in out
    assert "valid_nats" in out
    assert (
        main.main(
            ["diff", "--json", *words, "expert=uniform", "against=speeches", "diff.by=tensor"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["one"] == "averages/uniform"
    assert main.main(["diff", *words, "expert=bible", "against=uniformm"]) == 2
    assert "did you mean 'uniform'" in capsys.readouterr().err
    assert main.main(["diff", *words, "expert=seed"]) == 2
    assert "give against=NAME" in capsys.readouterr().err
    shutil.rmtree(Forest(config.forest_root)["bible"].path)
    assert main.main(["diff", *words, "expert=speeches"]) == 2


def test_an_average_or_a_folder_on_either_side(copy, workspace, capsys, tmp_path):
    forest = Forest(copy().forest_root)
    words = ["--json", *workspace, f"forest={forest.root}", "diff.by=tensor"]

    def found(*more):
        assert main.main(["diff", *words, *more]) == 0
        return json.loads(capsys.readouterr().out)

    one = found("average=uniform", "against=seed")
    assert (one["one"], one["other"]) == ("averages/uniform", "seed")
    ours, theirs = (flat(path) for path in (forest.root / "averages/uniform", forest["seed"].path))
    row = one["tensors"][0]
    a, b = ours[row["tensor"]], theirs[row["tensor"]]
    assert row["distance"] == pytest.approx(float((a - b).norm() / b.norm()), rel=1e-9)
    other = found("expert=seed", "against=uniform")
    assert other["other"] == "averages/uniform"
    assert other["tensors"][0]["largest"] == row["largest"]
    assert found("average=uniform")["other"] == "the average of its parents"
    assert found("average=uniform")["distance"] < 1e-6
    folder = shutil.copytree(forest.root / "averages/uniform", tmp_path / "deployed")
    assert found("expert=uniform", f"against={folder}")["distance"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["expert=unifrom"], "no model 'unifrom'"),
        (["average=unifrom"], "no average 'unifrom'"),
        (["expert=bible", "against=unifrom"], "no model 'unifrom'"),
        (["expert=bible", "average=uniform"], "two models, and one is wanted"),
        ([], "give expert=NAME, average=NAME, student=NAME or moe=NAME"),
    ],
)
def test_names_of_nothing_are_told_with_the_averages_there_are(
    words, said, grown, workspace, capsys
):
    assert main.main(["diff", *workspace, *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "unifrom" not in said or "did you mean 'uniform'" in told
