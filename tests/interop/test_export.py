"""What goes out is loaded by anybody, with the same logits; nothing that stands is overwritten."""

import json
import shutil

import pytest
import torch
from folders import tree
from interop.models import IDS, make_folder
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.forest import Forest, publish
from btm.forest.card import Card
from btm.interop import formats
from btm.models import weights


@pytest.fixture(scope="module")
def root(pristine, tokenizer, tmp_path_factory):
    """A forest of three imported ELMs and two averages; tests only read it."""
    root = tmp_path_factory.mktemp("exported") / "forest"
    for name, seed in {"seed": 0, "law": 1, "med": 2}.items():
        folder = make_folder(tmp_path_factory.mktemp(name) / "model", tokenizer, seed=seed)
        formats.import_model(compose([f"from={folder}", f"forest={root}", f"name={name}"]))
    publish.average(Forest(root), "deploy", {"law": 0.7, "med": 0.2, "seed": 0.1})
    return root


def export(root, to, *words):
    return formats.export_model(compose([f"forest={root}", f"to={to}", *words]))[0]


def logits(folder, **kind):
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **kind).eval()
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("what", ["expert=law", "average=deploy"])
def test_anybody_loads_it(what, root, tmp_path):
    source = formats.exported(compose([f"forest={root}", what]))
    target = export(root, tmp_path / "out/model", what)
    assert torch.equal(logits(target), logits(source))
    assert (target / "model.safetensors").read_bytes() == (
        source / "model.safetensors"
    ).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.decode(tokenizer("in the beginning").input_ids) == "in the beginning"
    assert Card.read(target / "card.json") == Card.read(source / "card.json")
    assert (target / "README.md").read_text().startswith("---\nlibrary_name: transformers")
    names = {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "card.json",
        "README.md",
        "SHA256SUMS",
    }
    assert {path.name for path in target.iterdir()} == names | {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("word", ["bf16", "fp16", "fp32"])
def test_other_float_types_in_shards(word, root, tmp_path):
    target = export(
        root, tmp_path / "model", "expert=law", f"export.dtype={word}", "export.shard_gb=0.00004"
    )
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[word]
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 2
    ours, theirs = {}, load_file(root / "elms/law/model.safetensors")
    for file in target.glob("*.safetensors"):
        assert file.stat().st_size < 50_000 or len(load_file(file)) == 1
        ours |= load_file(file)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name].to(dtype)) for name, tensor in ours.items())
    assert torch.equal(logits(target), logits(root / "elms/law", dtype=dtype))
    card = Card.read(target / "card.json")
    assert card.sha256 == weights.sha256(target)
    assert Forest(root)["law"].card.sha256 in card.notes[-1]
    assert json.loads((target / "config.json").read_text())["dtype"] == str(dtype).removeprefix(
        "torch."
    )


def test_what_was_exported_comes_in_again(root, tmp_path):
    target = export(root, tmp_path / "model", "expert=law", "export.shard_gb=0.00004")
    elm = formats.import_model(compose([f"from={target}", f"forest={tmp_path / 'forest'}"]))
    assert elm.card.sha256 == Forest(root)["law"].card.sha256


def test_nothing_that_stands_is_overwritten(root, tmp_path):
    target = export(root, tmp_path / "model", "expert=law")
    before = tree(tmp_path)
    assert export(root, target, "expert=law") == target
    for words in (
        ["expert=med"],
        ["expert=law", "export.dtype=bf16"],
        ["average=deploy", "format=mergekit"],
    ):
        with pytest.raises(UserError, match="holds something else already"):
            export(root, target, *words)
    with pytest.raises(UserError, match="lies in the folder that is exported"):
        export(root, root / "elms/law/copy", "expert=law")
    assert tree(tmp_path) == before


def test_damaged_weights_do_not_go_out(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "forest")
    file = copy / "elms/law/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="not those of its card"):
        export(copy, tmp_path / "model", "expert=law")
    assert not (tmp_path / "model").exists()


def test_numbers_that_do_not_fit(tokenizer, tmp_path):
    folder = make_folder(tmp_path / "source", tokenizer)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    root = tmp_path / "forest"
    formats.import_model(compose([f"from={folder}", f"forest={root}"]))
    with pytest.raises(UserError, match=r"'model.norm.weight' has numbers too large for F16"):
        export(root, tmp_path / "model", "expert=seed", "export.dtype=fp16")
    assert not list(tmp_path.glob("model*"))
    target = export(root, tmp_path / "model", "expert=seed", "export.dtype=bf16")
    assert torch.isfinite(logits(target)).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give expert=NAME"),
        (["expert=law", "average=deploy"], "export what?"),
        (["expert=lwa", "to=x"], "did you mean 'law'?"),
        (["average=deplou", "to=x"], "no average 'deplou'"),
        (["expert=law"], "give to=DIR"),
        (["expert=law", "to=x", "export.dtype=int8"], "choose one of fp32, bf16, fp16"),
        (["expert=law", "to=x", "format=fairsek"], "choose one of hf"),
        (["expert=law", "format=mergekit"], "no average of ELMs"),
        (["expert=law", "to=x", "export.shard_gb=-1"], "wanted 0 or more"),
    ],
)
def test_what_was_meant_is_said(words, message, root, capsys):
    assert main.main(["export", f"forest={root}", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_writes_nothing(root, tmp_path, capsys):
    assert (
        main.main(
            ["export", f"forest={root}", "average=deploy", f"to={tmp_path / 'x'}", "--dry-run"]
        )
        == 0
    )
    assert "deploy" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_a_licence_that_forbids_it_is_heeded_unless_forced(tokenizer, tmp_path, capsys):
    root = tmp_path / "forest"
    folder = make_folder(tmp_path / "model", tokenizer)  # under apache-2.0
    said = (folder / "README.md").read_text()
    licences = {"seed": "gemma", "law": "cc-by-nd-4.0", "med": "gemma"}
    words = ["card.languages=[en]", "card.sources=[{name: Digest, license: cc0-1.0}]"]
    for name, license in licences.items():
        (folder / "README.md").write_text(said.replace("apache-2.0", license))
        more = ["card.license=mit"]  # is the importer's word, and does not stand against the README
        formats.import_model(
            compose([f"from={folder}", f"forest={root}", f"name={name}", *words, *more])
        )
    forest = Forest(root)
    assert forest["seed"].card.license == "gemma"
    publish.average(forest, "bound", {"seed": 0.5, "med": 0.5})
    publish.average(forest, "forbidden", {"seed": 0.5, "law": 0.5})
    card = Card.read(root / "averages/bound/card.json")
    assert card.ancestor_licenses == {"seed": "gemma", "med": "gemma"}
    assert (card.languages, [source.name for source in card.sources]) == (["en"], ["Digest"])

    def run(what, to, *more):
        code = main.main(["export", f"forest={root}", what, f"to={tmp_path / to}", *more])
        err = capsys.readouterr().err
        assert err.count("\n") == (1 if err else 0)
        return code, err

    assert run("expert=law", "unchanged") == (0, "")
    for to, more in (("a", []), ("a.gguf", ["format=gguf"])):
        code, err = run("average=forbidden", to, *more)
        assert code == 2
        assert "'law' forbids" in err
    code, err = run("average=bound", "b", "card.license=mit")
    assert code == 2
    assert "give card.license=gemma" in err
    assert "export.force=true" in err
    assert run("average=bound", "c", "card.license=gemma", "card.use=chats")[0] == 0
    assert Card.read(tmp_path / "c/card.json").use == "chats"
    assert run("average=forbidden", "d", "export.force=true")[0] == 0
    (note,) = Card.read(tmp_path / "d/card.json").notes
    assert note.startswith("exported by force: cc-by-nd-4.0 of its ancestor 'law'")
    shutil.rmtree(tmp_path / "d")
    # Of a model that nobody stated a licence of, its descendants say so, whatever is stated of them.
    (folder / "README.md").unlink()
    formats.import_model(compose([f"from={folder}", f"forest={root}", "name=bare"]))
    publish.average(forest, "open", {"seed": 0.5, "bare": 0.5})
    for what, to, whose, *more in (
        ("average=open", "d", "'open': no licence is stated of its ancestor 'bare', imported"),
        ("average=open", "e.gguf", "of its ancestor 'bare'", "format=gguf"),
        ("average=open", "e", "of its ancestor 'bare'", "card.license=gemma"),
        ("expert=bare", "f", "'bare': no licence is stated of itself, imported"),
    ):
        code, err = run(what, to, *more)
        assert (code, err.startswith("note: "), whose in err) == (0, True, True), err
        if more != ["format=gguf"]:
            assert whose in Card.read(tmp_path / to / "card.json").notes[-1]
    assert run("expert=bare", "g", "card.license=mit") == (0, "")
    for made in ("d", "e", "f", "g"):
        shutil.rmtree(tmp_path / made)
    (tmp_path / "e.gguf").unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"forest", "model", "unchanged", "c"}
