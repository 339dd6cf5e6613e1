"""A key or a flag that changes nothing is a mistake, told in one line before anything is done."""

import json

import pytest

from btm.cli import main

WITHOUT_EFFECT = [
    (["export", "expert=bible", "to=OUT", "export.block=64"], "wanted format=delta8"),
    (["export", "expert=bible", "to=OUT", "format=delta8", "export.dtype=bf16"], "format=hf"),
    (["export", "expert=bible", "to=OUT", "format=delta8", "card.license=mit"], "format=hf"),
    (["export", "average=uniform", "format=mergekit", "export.shard_gb=1"], "format=hf"),
    (["average", "average.method=linear", "average.density=0.3"], "give one of ties, dare_ties"),
    (["average", "average.method=linear", "average.scale=0.5"], "give one of task_arithmetic"),
    (["average", "average.method=ties", "average.rescale=l1"], "give one of dare_ties"),
    (["average", "average.method=ties", "average.sequences=5"], "give one of fisher"),
    (["average", "weights=uniform", "average.t=0.3"], "give one of slerp"),
    (["lineage", "lineage.format=mermaid", "--json"], "a format of its own"),
    (["remove", "expert=bible", "--readmit", "remove.reason=x"], "stands on the tombstone"),
    (["branch", "expert=x", "domain=bible", "branch=copy", "weights=bible:1"], "weights= says"),
    (["branch", "expert=x", "domain=bible", "parent=bible"], "give branch=copy"),
    (["run", "cluster=debug", "--retry-failed"], "tries what failed again"),
    (["train", "expert=x", "trainer.lora_rank=4"], "give trainer.adapter=lora with it"),
    (["ls", "card.license=mit"], "btm ls does not read card.license=mit"),
    (["eval", "import.legacy=true"], "btm eval does not read import.legacy=true"),
    (["commons", "init", "to=file:///OUT", "parent=seed"], "give commons.wanted with it"),
    (
        [
            "commons",
            "init",
            "to=file:///OUT",
            "commons.wanted={a: 1}",
            "parent=x",
            "weights={x: 1}",
        ],
        "leave one of them out",
    ),
]


@pytest.mark.parametrize(("command", "said"), WITHOUT_EFFECT, ids=str)
def test_what_changes_nothing_is_a_mistake(command, said, grown, tmp_path, capsys):
    words = [word.replace("OUT", str(tmp_path / "out")) for word in command]
    assert main.main([*words, f"forest={grown[0].forest_root}"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["average.method=dare_ties", "average.density=0.3", "average.seed=4", "weights=uniform"],
        ["average.method=null", "average.scale=fit"],
        ["average.method=task_arithmetic", "average.scale=0.5", "average.base=seed"],
    ],
    ids=" ".join,
)
def test_what_has_an_effect_is_taken(words, grown, capsys):
    forest = [f"forest={grown[0].forest_root}", f"data.out={grown[0].data.out}"]
    assert main.main(["average", "--dry-run", *forest, *words]) == 0, capsys.readouterr().err


def test_a_licence_is_stated_at_export(grown, tmp_path, capsys):
    words = [f"forest={grown[0].forest_root}", "expert=bible"]
    for name, more in (("own", []), ("mit", ["card.license=mit"])):
        assert main.main(["export", *words, f"to={tmp_path / name}", *more]) == 0
    card = json.loads((tmp_path / "mit" / "card.json").read_text())
    assert card["license"] == "mit"
    assert 'license: "mit"' in (tmp_path / "mit" / "README.md").read_text()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("own", "mit")]
    assert weights[0] == weights[1]
    again = tmp_path / "again"
    taken = [f"forest={again}", f"from={tmp_path / 'mit'}"]
    assert main.main(["import", *taken]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main.main(["show", f"forest={again}", "expert=seed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["license"] == "mit"
