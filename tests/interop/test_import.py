"""Models of many architectures come in as they are; what does not fit together is refused by
name.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from folders import tree
from interop.models import IDS, SIZES, make_folder, make_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest, publish
from btm.interop import formats
from btm.models import weights


def bring(folder, root, *words):
    return formats.import_model(compose([f"from={folder}", f"forest={root}", *words]))


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        return model(IDS).logits


def rewrite(folder, change):
    """Change the tensors {name: tensor} of a folder of one weight file."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", SIZES)
def test_every_architecture_comes_in_as_it_is(model_type, tokenizer, tmp_path):
    folder = make_folder(tmp_path / "model", tokenizer, model_type)
    elm = bring(folder, tmp_path / "forest")
    assert torch.equal(logits(elm.path), logits(folder))
    assert elm.card.sha256 == weights.sha256(elm.path)
    assert (elm.name, elm.card.domains, elm.card.source) == ("seed", [], str(folder))
    assert elm.card.license == "apache-2.0"
    assert 'license: "apache-2.0"' in (elm.path / "README.md").read_text()
    assert weights.sha256(folder) in elm.card.notes[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_float_type_in_shards(dtype, tokenizer, tmp_path):
    wanted = getattr(torch, dtype)
    folder = make_folder(tmp_path / "model", tokenizer, dtype=wanted, shard="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    elm = bring(folder, tmp_path / "forest")
    assert elm.load().dtype == wanted
    assert torch.equal(logits(elm.path), logits(folder))


def test_a_shard_that_is_missing_is_named(tokenizer, tmp_path):
    folder = make_folder(tmp_path / "model", tokenizer, shard="60KB")
    gone = sorted(folder.glob("*.safetensors"))[-1]
    gone.unlink()
    with pytest.raises(UserError, match=rf"{gone.name}: this shard is missing, and model\."):
        bring(folder, tmp_path / "forest")


@pytest.mark.slow
def test_an_expert_joins_a_forest(pristine, tokenizer, tmp_path):
    """Planted with one model; a second becomes an expert, of the other as a parent; a third
    architecture is refused.
    """
    root = tmp_path / "forest"
    seed = bring(pristine, root)
    law = make_folder(tmp_path / "law", tokenizer, seed=1)
    (law / "generation_config.json").unlink()
    (law / "README.md").unlink()
    elm = bring(law, root, "name=law", "parent=seed", "domain=contracts")
    assert (elm.card.domains, elm.card.license) == (["contracts"], "")
    assert elm.card.parents["seed"].sha256 == seed.card.sha256
    assert elm.card.is_expert
    assert bring(law, root, "name=law") == elm
    before = tree(root)
    with pytest.raises(UserError, match="has an ELM 'law' already"):
        bring(pristine, root, "name=law")
    with pytest.raises(UserError, match="give name=NAME"):
        bring(pristine, root)
    with pytest.raises(UserError, match="another architecture"):
        bring(make_folder(tmp_path / "other", tokenizer, intermediate_size=32), root, "name=other")
    assert tree(root) == before
    averaged = publish.average(Forest(root), "both", {"seed": 1, "law": 1})
    mean = (load_file(seed.path / "model.safetensors")["lm_head.weight"] / 2).add(
        load_file(elm.path / "model.safetensors")["lm_head.weight"] / 2
    )
    torch.testing.assert_close(load_file(averaged / "model.safetensors")["lm_head.weight"], mean)


def retrain(folder):
    """Give a folder other weights of the same shapes."""
    rewrite(folder, lambda tensors: {name: tensor + 1e-3 for name, tensor in tensors.items()})


@pytest.mark.parametrize("older", [False, True])
def test_the_same_path_with_other_weights_is_refused(folder, tmp_path, capsys, older):
    root = tmp_path / "forest"
    card = bring(folder, root).card
    assert card.source_sha256 == weights.sha256(folder)
    if older:  # a card that has it in its notes alone
        file = root / "elms" / "seed" / "card.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "source_sha256": ""}))
    words = ["import", f"from={folder}", f"forest={root}", "name=seed"]
    assert main.main(words) == 0
    assert "stands there, from these very weights" in capsys.readouterr().err
    assert main.main([*words, "--dry-run"]) == 0
    assert "nothing: it stands there" in capsys.readouterr().out
    retrain(folder)
    before = tree(root)
    assert main.main([*words, "--dry-run"]) == main.main(words) == 2
    said = capsys.readouterr().err
    for sha256 in (card.source_sha256, weights.sha256(folder)):
        assert sha256[:12] in said
    assert "give another name" in said and "--readmit" in said
    assert tree(root) == before


def test_the_same_weights_elsewhere_stand(folder, tmp_path):
    elm = bring(folder, tmp_path / "forest")
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert bring(moved, tmp_path / "forest", "name=seed") == elm
    with pytest.raises(UserError, match="no such file or folder"):
        bring(tmp_path / "nowhere", tmp_path / "forest", "name=seed")


def test_an_elm_that_was_not_imported_is_not_taken_for_one(forest, copy):
    config = copy("name=seed")
    with pytest.raises(UserError, match=r"'seed' already, that was not imported, and .* holds"):
        bring(forest["seed"].path, config.forest_root, "name=seed")


@pytest.mark.slow
def test_a_process_that_changes_its_folder_imports_on(pristine, tmp_path, monkeypatch):
    """The box that looks at models goes on in the folder in which it was started."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        shutil.copytree(pristine, "model")
        assert bring("model", "forest").name == "seed"


def test_an_import_that_was_killed_begins_anew(folder, tmp_path):
    root = tmp_path / "forest"
    elm = bring(folder, root)
    left = root / "branches" / "law"
    shutil.copytree(elm.path, left)
    (left / "card.json").unlink()
    (left / "trained.json").unlink()
    assert bring(folder, root, "name=law").card.domains == ["law"]
    assert not Forest(root).branches()


def test_names_of_older_versions_and_weights_wider_than_said(tokenizer, tmp_path):
    """GPT-2's own files: no prefix, buffers stored, a config that says nothing of the type; and a
    mixed folder.
    """
    folder = make_folder(tmp_path / "model", tokenizer, "gpt2")
    expected = logits(folder)

    def age(tensors):
        old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        buffers = {
            "h.0.attn.bias": torch.ones(1, 1, 64, 64),
            "h.0.attn.masked_bias": torch.tensor(-1e4),
        }
        return old | buffers

    rewrite(folder, age)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    elm = bring(folder, tmp_path / "forest")
    assert torch.equal(logits(elm.path), expected)
    assert "float16" in elm.card.notes[1]
    assert not any(".attn.bias" in name for name in weights.tensors(elm.path))


def test_pickled_weights_come_in_if_asked_for(tokenizer, tmp_path):
    folder = make_folder(tmp_path / "model", tokenizer, "opt", dtype=torch.bfloat16)
    expected = logits(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"pytorch_model-0000{1 + (name > names[9])}-of-00002.bin" for name in names}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(UserError, match=r"import\.legacy=true"):
        bring(folder, tmp_path / "forest")
    assert not (tmp_path / "forest").exists()
    elm = bring(folder, tmp_path / "forest", "import.legacy=true")
    assert torch.equal(logits(elm.path), expected)


def nan(tensors):
    tensors["model.norm.weight"][3] = np.nan


def infinity(tensors):
    tensors["lm_head.weight"][5, 5] = -np.inf


def missing(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]


def extra(tensors):
    tensors["model.layers.1.evil.weight"] = torch.ones(3)


def transposed(tensors):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].T.contiguous()


DAMAGE = {
    nan: "a NaN or an infinity in tensor 'model.norm.weight'",
    infinity: "a NaN or an infinity in tensor 'lm_head.weight'",
    missing: "parameters, its weights hold",
    extra: "does not load: {'unexpected': ['model.layers.1.evil.weight']}",
    transposed: "tensor 'model.layers.0.mlp.up_proj.weight' is [32, 48], its config.json says [48, 32]",
}


@pytest.mark.parametrize("change", DAMAGE, ids=lambda change: change.__name__)
def test_weights_that_do_not_fit_are_refused(change, folder, tmp_path, capsys):
    rewrite(folder, change)
    assert main.main(["import", f"from={folder}", f"forest={tmp_path / 'forest'}"]) == 2
    error = capsys.readouterr().err
    assert DAMAGE[change] in error
    assert error.startswith(f"btm: {folder}") and error.count("\n") == 1
    assert not (tmp_path / "forest").exists()


def test_no_tokenizer_or_one_that_is_too_large(tokenizer, folder, tmp_path):
    small = make_folder(tmp_path / "small", tokenizer, vocab_size=200)
    with pytest.raises(UserError, match="embeddings for 200 tokens, its tokenizer"):
        bring(small, tmp_path / "forest")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(UserError, match=f"{folder}: holds no file of a tokenizer; looked for tok"):
        bring(folder, tmp_path / "forest")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give from=DIR"),
        (["from=/nowhere"], "no such folder"),
        (["from=mistralai/Mistral-7B-v0.1"], "hf download mistralai/Mistral-7B-v0.1 --local-dir"),
        (["from=FILE"], "a file; wanted the folder"),
        (["from=.", "name=../x"], "is no valid name"),
        (["from=.", "format=mergekit"], "wanted for an import: hf"),
        (["from=.", "parent=seed"], "no forest in"),
    ],
)
def test_what_was_meant_is_said(words, message, tmp_path, pristine, capsys):
    words = [word.replace("FILE", str(pristine / "model.safetensors")) for word in words]
    assert main.main(["import", f"forest={tmp_path / 'forest'}", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_writes_nothing(pristine, tmp_path, capsys):
    root = tmp_path / "forest"
    assert main.main(["import", f"from={pristine}", f"forest={root}", "--dry-run"]) == 0
    assert "as a seed" in " ".join(capsys.readouterr().out.split())
    assert not root.exists()


def test_a_model_that_gives_no_numbers(folder, tmp_path):
    """All weights are finite, and their products are not."""

    def scale(tensors):
        for name in ("lm_head.weight", "model.norm.weight"):
            tensors[name] *= 1e37

    rewrite(folder, scale)
    with pytest.raises(UserError, match="logits that are not finite"):
        bring(folder, tmp_path / "forest")


def test_models_made_from_one_config_are_one_architecture():
    assert make_model(seed=1).config.to_diff_dict() == make_model(seed=2).config.to_diff_dict()
