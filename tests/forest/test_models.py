"""ELMs, averages and folders found by name, and everything that is none of them refused in a
line.
"""

import json
import shutil

import pytest
from folders import tree
from interop.models import make_folder

from btm.errors import UserError
from btm.forest import Forest, derived, find_model
from btm.forest import publish as published


def test_an_elm_and_an_average_are_found_by_their_names(forest):
    elm, average = find_model(forest, "bible"), find_model(forest, "uniform")
    assert (elm.kind, elm.sha256, elm.path) == (
        "ELM",
        forest["bible"].card.sha256,
        forest["bible"].path,
    )
    assert (average.kind, average.path) == ("average", forest.root / "averages/uniform")
    assert average.card.parents.keys() == {"bible", "code_python", "speeches"}
    assert derived(forest) == [average]


def test_of_two_with_one_name_the_elm_wins_and_the_average_has_a_longer_one(copy):
    forest = Forest(copy().forest_root)
    published.average(forest, "bible", {"bible": 1, "seed": 1})
    assert find_model(forest, "bible").kind == "ELM"
    average = find_model(forest, "averages/bible")
    assert (average.kind, average.name) == ("average", "averages/bible")
    with pytest.raises(UserError, match=r"no average 'bibel' in .*did you mean 'bible'"):
        find_model(forest, "averages/bibel")


def test_what_is_in_no_forest_is_told_with_what_is(forest):
    with pytest.raises(
        UserError, match=r"no model 'unifrom' in .*did you mean 'uniform'.*have: bible"
    ):
        find_model(forest, "unifrom")
    with pytest.raises(
        UserError, match=r"no such model folder, and no FOREST:NAME; have in .*bible"
    ):
        find_model(forest, "nowhere/at/all")


def test_a_model_of_another_forest_is_named_through_it(forest, copy):
    copied = Forest(copy().forest_root)
    shutil.rmtree(copied.root / "elms" / "speeches")
    found = find_model(copied, f"{forest.root}:speeches")
    assert (found.name, found.kind, found.sha256) == (
        f"{forest.root}:speeches",
        "ELM",
        forest["speeches"].card.sha256,
    )
    assert find_model(copied, f"{forest.root}:uniform").kind == "average"
    with pytest.raises(UserError, match=r"no model 'speches' in .*did you mean 'speeches'"):
        find_model(copied, f"{forest.root}:speches")
    with pytest.raises(UserError, match=r"a forest, not a model; it holds .*:bible"):
        find_model(copied, str(forest.root))


def test_a_forest_of_another_tokenizer_is_refused(forest, copy):
    other = Forest(copy().forest_root)
    facts = other.facts | {"tokenizer_sha256": "0" * 64}
    (other.root / "forest.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="another tokenizer than the forest"):
        find_model(forest, f"{other.root}:bible")


def test_a_folder_of_the_same_tokenizer_is_a_model(forest, tmp_path):
    folder = make_folder(tmp_path / "gpt2", forest.tokenizer, "gpt2", vocab_size=512)
    before = tree(folder)
    found = find_model(forest, f"{folder}/")
    assert (found.name, found.kind, found.card) == (str(folder), "folder", None)
    assert tree(folder) == before


def test_a_folder_keeps_its_card_only_beside_the_weights_it_names(forest, tmp_path):
    folder = shutil.copytree(forest["bible"].path, tmp_path / "bible")
    found = find_model(forest, str(folder))
    assert (found.kind, found.card) == ("folder", forest["bible"].card)
    shutil.copyfile(forest["speeches"].path / "model.safetensors", folder / "model.safetensors")
    other = find_model(forest, str(folder))
    assert (other.sha256, other.card) == (forest["speeches"].card.sha256, None)


def test_a_folder_with_pickles_code_or_another_tokenizer_is_refused(forest, tmp_path):
    folder = make_folder(tmp_path / "model", forest.tokenizer, vocab_size=512)
    settings, tokens = (folder / "config.json").read_text(), (folder / "tokenizer.json").read_text()
    (folder / "config.json").write_text(
        json.dumps(json.loads(settings) | {"auto_map": {"AutoModel": "x.Y"}})
    )
    with pytest.raises(UserError, match="code of its own"):
        find_model(forest, str(folder))
    (folder / "config.json").write_text(settings)
    (folder / "tokenizer.json").write_text(tokens.replace('"Ġthe"', '"Ġthé"'))
    with pytest.raises(UserError, match="another tokenizer than the forest"):
        find_model(forest, str(folder))
    (folder / "tokenizer.json").write_text(tokens)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        find_model(forest, str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        find_model(forest, str(folder))


def test_a_damaged_and_an_unfinished_average_are_named_and_the_others_are_there(copy):
    forest, told = Forest(copy().forest_root), []
    home = forest.root / "averages"
    shutil.copytree(home / "uniform", home / "damaged")
    (home / "damaged" / "model.safetensors").write_bytes(b"cut")
    (home / "unfinished").mkdir()
    (home / ".tmp-1-x").mkdir()
    assert [model.name for model in derived(forest, told.append)] == ["uniform"]
    assert len(told) == 2
    assert "'damaged' is left out" in told[0] and "not a valid safetensors" in told[0]
    assert "'unfinished' is left out" in told[1] and "never finished" in told[1]
    with pytest.raises(UserError, match="never finished"):
        find_model(forest, "unfinished")
