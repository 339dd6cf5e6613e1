"""Models as others publish them, with other ends of text than the tokenizer's, through the CLI."""

import json

import pytest
from interop.models import make_folder
from transformers import AutoConfig, GenerationConfig

from btm.cli import main
from btm.data.tokenizer import load_tokenizer
from btm.ensemble.generate import Ensemble
from btm.forest import Forest


def ends(folder):
    """The ids by which transformers would end what this folder's model writes."""
    config = AutoConfig.from_pretrained(folder).eos_token_id
    assert GenerationConfig.from_pretrained(folder).eos_token_id == config
    return config


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({}, 0),
        ({"eos_token_id": None}, 0),
        ({"eos_token_id": [0, 5, 7]}, [0, 5, 7]),
        ({"eos_token_id": 9}, [0, 9]),
        ({"eos_token_id": [11, 99_999]}, [0, 11]),
        ({"eos_token_id": 50_256}, 0),
    ],
)
def test_import_generate_and_export_have_all_ends(said, wanted, tokenizer, tmp_path, capsys):
    folder, forest = make_folder(tmp_path / "model", tokenizer), f"forest={tmp_path / 'forest'}"
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text()) | said
        (folder / name).write_text(json.dumps(values))
    assert main.main(["import", f"from={folder}", forest]) == 0
    assert main.main(["generate", forest, "prompt=in the", "generate.tokens=6", "--json"]) == 0
    out = tmp_path / "out"
    assert main.main(["export", forest, "expert=seed", f"to={out}"]) == 0
    elm = Forest(tmp_path / "forest")["seed"]
    assert ends(elm.path) == ends(out) == wanted
    strange = [str(i) for i in (99_999, 50_256) if str(i) in json.dumps(said)]
    assert [note for note in elm.card.notes if "eos_token_id" in note] == [
        f"eos_token_id {i} of its settings is no token of its tokenizer and was left out"
        for i in strange
    ]
    assert "Traceback" not in capsys.readouterr().err


def test_the_first_token_of_any_list_ends_what_is_written(tokenizer, tmp_path, capsys):
    folder, forest = make_folder(tmp_path / "model", tokenizer), f"forest={tmp_path / 'forest'}"
    words = ["generate", forest, "prompt=in the", "generate.tokens=8", "generate.temperature=0"]
    assert main.main(["import", f"from={folder}", forest]) == 0
    capsys.readouterr()
    assert main.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 8
    writer = Ensemble.load(Forest(tmp_path / "forest"))
    writer.read(load_tokenizer(tokenizer)("in the", add_special_tokens=False).input_ids)
    first = next(writer.generate(1, temperature=0))
    elm = Forest(tmp_path / "forest")["seed"].path
    (elm / "generation_config.json").unlink()
    values = json.loads((elm / "config.json").read_text())
    (elm / "config.json").write_text(json.dumps(values | {"eos_token_id": [0, first]}))
    assert main.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 0


def test_an_average_ends_where_any_of_its_parents_does(tokenizer, tmp_path):
    forest = f"forest={tmp_path / 'forest'}"
    for seed, (name, end) in enumerate({"seed": [0], "one": [0, 5], "two": [0, 7]}.items()):
        folder = make_folder(tmp_path / name, tokenizer, seed=seed, eos_token_id=end)
        assert main.main(["import", f"from={folder}", f"name={name}", forest]) == 0
    words = ["average", forest, "weights={one: 1, two: 1}", "average.name=both"]
    assert main.main([*words, "average.measure=false", "average.method=linear"]) == 0
    assert ends(tmp_path / "forest/averages/both") == [0, 5, 7]
