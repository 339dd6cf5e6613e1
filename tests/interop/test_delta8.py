"""An ELM goes out as an 8-bit difference from its parents, and comes back where these are."""

import json
import os
import shutil

import numpy as np
import pytest
from folders import tree
from safetensors.numpy import load_file, save_file

from btm.cli import main
from btm.cli.compose import compose
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import EXACT, Forest, trained_on
from btm.forest.card import Card
from btm.forest.paths import Paths
from btm.forest.suites import open_suites
from btm.interop import formats
from btm.models import blockwise, weights
from btm.models.average import average
from btm.steps import score_cache
from btm.system import sums


@pytest.fixture(scope="module")
def root(grown):
    """A forest with a seed, two experts, and `speeches`, which began as an average of these."""
    return Forest(grown[0].forest_root).root


@pytest.fixture(scope="module")
def sent(root, tmp_path_factory):
    """The difference of `speeches`."""
    return export(root, tmp_path_factory.mktemp("sent") / "speeches", "expert=speeches")


def test_it_brings_the_digests_of_the_text_it_was_trained_on(root, sent, parents):
    (sha256,) = Forest(root)["speeches"].card.data.values()
    Paths(parents).trained_on(sha256).unlink()
    bring(sent, parents)
    assert trained_on.read(Paths(parents), sha256).tolist() == (
        trained_on.read(Paths(root), sha256).tolist()
    )


@pytest.fixture
def parents(root, tmp_path):
    """The forest without `speeches`."""
    shutil.copytree(
        root, tmp_path / "forest", ignore=shutil.ignore_patterns("speeches", "scores", "jobs")
    )
    return tmp_path / "forest"


def export(root, to, *words):
    return formats.export_model(compose([f"forest={root}", f"to={to}", "format=delta8", *words]))[0]


def bring(folder, root, *words):
    words = words or ["name=speeches"]
    return formats.import_model(
        compose([f"forest={root}", f"from={folder}", "format=delta8", *words])
    )


def test_it_comes_back_where_its_parents_are(root, sent, parents):
    original = Forest(root)["speeches"]
    assert len(original.card.parents) > 1
    elm = bring(sent, parents)
    assert elm.card.parents == original.card.parents
    assert elm.card.ancestors == original.card.ancestors
    for field in (
        "domains",
        "steps",
        "tokens",
        "flops",
        "total_tokens",
        "data",
        "branch_method",
    ):
        assert getattr(elm.card, field) == getattr(original.card, field), field
    assert original.card.sha256 in elm.card.notes[-2]
    assert not sums.differences(elm.path)
    ours, theirs = (load_file(e.path / "model.safetensors") for e in (elm, original))
    begun = parents / "begun"
    begun.mkdir()
    forest = Forest(parents)
    average({forest[p].path: v.weight for p, v in elm.card.parents.items()}, begun, settings=EXACT)
    base = load_file(begun / "model.safetensors")
    for name, tensor in ours.items():
        moved = (theirs[name] - base[name]).ravel()
        off = np.abs(tensor - theirs[name]).ravel()
        scale = np.maximum.reduceat(np.abs(moved), np.arange(0, len(moved), 2048))
        assert np.all(off <= 0.008 * np.repeat(scale, 2048)[: len(off)] + 1e-7), name
        assert np.linalg.norm(off) < 0.02 * np.linalg.norm(moved), name
    assert (elm.path / "config.json").read_bytes() == (original.path / "config.json").read_bytes()
    assert bring(sent, parents).card == elm.card  # again: it stands there


def test_it_takes_a_byte_a_parameter(root, sent):
    count = Forest(root)["speeches"].card.parameters
    header = json.loads((sent / "delta.json").read_bytes())
    stored = weights.header(sent / "delta.safetensors")[0]
    assert sum(t.size for t in stored if t.dtype == "U8") == count
    assert sum(t.size for t in stored) < 1.05 * count
    assert (header["block"], header["format"]) == (2048, "delta8")
    (sha256,) = header["card"]["data"].values()
    assert {path.name for path in sent.iterdir()} == {
        f"{sha256}.docs",
        "delta.json",
        "delta.safetensors",
        "README.md",
        "SHA256SUMS",
    }
    assert not sums.differences(sent)


@pytest.mark.slow
@pytest.mark.parametrize("block", [64, 4096])
def test_other_blocks_and_its_own_sha256(block, root, parents, tmp_path):
    folder = export(root, tmp_path / "out", "expert=bible", f"export.block={block}")
    shutil.rmtree(parents / "elms" / "bible")
    elm = bring(folder, parents, "name=bible", "domain=novels")
    assert elm.card.domains == ["novels"]
    assert elm.card.sha256 == json.loads((folder / "delta.json").read_bytes())["sha256"]
    assert (
        export(root, folder, "expert=bible", f"export.block={block}") == folder
    )  # the same: left alone
    with pytest.raises(UserError, match="holds something else already"):
        export(root, folder, "expert=bible", "export.block=256")


@pytest.mark.slow
def test_bfloat16_comes_back_as_bfloat16(tokenizer, tmp_path):
    import torch
    from interop.models import make_folder, make_model

    base = make_folder(tmp_path / "base", tokenizer, dtype=torch.bfloat16)
    moved = make_model(dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    shutil.copytree(base, tmp_path / "law", ignore=shutil.ignore_patterns("model*"))
    moved.save_pretrained(tmp_path / "law")
    root = tmp_path / "forest"
    formats.import_model(compose([f"from={base}", f"forest={root}"]))
    words = [f"from={tmp_path / 'law'}", f"forest={root}", "name=law", "parent=seed"]
    original = formats.import_model(compose(words))
    folder = export(root, tmp_path / "out", "expert=law")
    other = tmp_path / "other"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns("law"))
    elm = bring(folder, other, "name=law")
    assert {t.dtype for t in weights.tensors(elm.path).values()} == {"BF16"}
    pairs = zip(elm.load().parameters(), original.load().parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.005


def test_what_is_no_difference_does_not_go_out(root, tmp_path, parents):
    with pytest.raises(UserError, match=r"'seed' has no parents .*: give format=hf"):
        export(root, tmp_path / "out", "expert=seed")
    with pytest.raises(UserError, match="of an ELM from its parents: give expert=NAME"):
        export(root, tmp_path / "out", "average=uniform")
    shutil.copytree(root / "elms" / "speeches", parents / "elms" / "speeches")
    shutil.rmtree(parents / "elms" / "bible")
    with pytest.raises(
        UserError, match=r"'speeches' is a difference from 'bible' .* has none: wanted the forest"
    ):
        export(parents, tmp_path / "out", "expert=speeches")
    assert not (tmp_path / "out").exists()


def edit(folder, **changes):
    """Change the header, and its check sum with it."""
    values = json.loads((folder / "delta.json").read_bytes()) | changes
    (folder / "delta.json").write_text(json.dumps(sums.checked(values)))


def change(folder, edit):
    tensors = load_file(folder / "delta.safetensors")
    edit(tensors)
    save_file(tensors, folder / "delta.safetensors")


def first(tensors, prefix):
    return next(name for name in sorted(tensors) if name.startswith(prefix))


def flip(tensors):
    name = first(tensors, "codes.")
    tensors[name] = tensors[name] ^ np.uint8(1)


def no_scale(tensors):
    tensors[first(tensors, "absmax.")][:] = np.nan


def negative(tensors):
    tensors[first(tensors, "absmax.")][0] = -1


def more(tensors):
    tensors["codes.more"] = np.zeros(3, np.uint8)


def fewer(tensors):
    del tensors[first(tensors, "absmax.")]


def other_shape(tensors):
    name = first(tensors, "codes.")
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def parent_changed(folder):
    card = json.loads((folder / "delta.json").read_bytes())["card"]
    card["parents"]["bible"]["sha256"] = "0" * 64
    edit(folder, card=card)


def weight_changed(folder):
    card = json.loads((folder / "delta.json").read_bytes())["card"]
    card["parents"]["bible"]["weight"] *= 0.5
    edit(folder, card=card)


def parent_elsewhere(folder):
    card = json.loads((folder / "delta.json").read_bytes())["card"]
    card["parents"] = {"../../bible": card["parents"]["bible"]}
    edit(folder, card=card)


def no_parents(folder):
    card = json.loads((folder / "delta.json").read_bytes())["card"]
    edit(folder, card=card | {"parents": {}})


def a_pipe(folder):
    (folder / "delta.safetensors").unlink()
    os.mkfifo(folder / "delta.safetensors")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: shutil.rmtree(f), r"no delta\.json"),
        (lambda f: (f / "delta.json").write_text("[]"), "wanted a JSON object"),
        (lambda f: (f / "delta.json").write_text("{}"), "no schema"),
        (
            lambda f: (f / "delta.json").write_bytes(
                (f / "delta.json").read_bytes().replace(b"2048", b"1024")
            ),
            "check sum",
        ),
        (lambda f: edit(f, block=2000), "block 2000; wanted one of 64"),
        (lambda f: edit(f, schema=9), "schema 9; wanted delta8, 1"),
        (lambda f: edit(f, card={"name": 3}), "not a valid card"),
        (no_parents, "names no parents"),
        (parent_changed, "is a difference from 'bible' with sha256 000000000000"),
        (parent_elsewhere, "is no valid name"),
        (weight_changed, "gives other weights than it says"),
        (a_pipe, "no regular file"),
        (
            lambda f: (f / "delta.safetensors").write_bytes(b"x" * 99),
            "not a valid safetensors file",
        ),
        (lambda f: (f / "delta.safetensors").unlink(), r"no delta\.safetensors"),
        (lambda f: change(f, flip), "gives other weights than it says"),
        (lambda f: change(f, no_scale), "has a scale that is negative or not finite"),
        (lambda f: change(f, negative), "has a scale that is negative or not finite"),
        (lambda f: change(f, more), "'codes.more' is .*; wanted None"),
        (lambda f: change(f, fewer), "is None; wanted .'F32'"),
        (lambda f: change(f, other_shape), "wanted .'U8'"),
    ],
)
def test_a_damaged_difference_is_refused_and_leaves_nothing(harm, said, sent, parents, tmp_path):
    folder = shutil.copytree(sent, tmp_path / "outside")
    harm(folder)
    before = tree(parents)
    with pytest.raises(UserError, match=said) as caught:
        bring(folder, parents)
    assert "\n" not in str(caught.value)
    assert tree(parents) == before


def test_an_import_that_was_killed_begins_anew(sent, parents):
    forest = Forest(parents)
    forest.branch("speeches", "speeches", {"bible": 1.0})
    origin = parents / "branches" / "speeches" / "branch.json"
    with pytest.raises(UserError, match="has a branch 'speeches' already"):
        bring(sent, parents)
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {"source": str(sent)}))
    assert bring(sent, parents).name == "speeches"
    assert not forest.has_branch("speeches")


def test_from_the_command_line(root, parents, tmp_path, capsys):
    words = [f"forest={root}", f"to={tmp_path / 'out'}", "format=delta8", "expert=speeches"]
    assert main.main(["export", *words]) == 0
    assert f"exported to {tmp_path / 'out'}" in capsys.readouterr().out
    words = [f"forest={parents}", f"from={tmp_path / 'out'}", "format=delta8", "name=again"]
    assert main.main(["import", *words]) == 0
    card = Card.read(parents / "elms" / "again" / "card.json")
    assert (card.name, card.domains) == ("again", ["speeches"])
    assert (
        main.main(
            [
                "export",
                f"forest={root}",
                "to=x",
                "format=delta8",
                "expert=bible",
                "export.block=100",
            ]
        )
        == 2
    )
    assert f"wanted one of {', '.join(map(str, blockwise.BLOCKS))}" in capsys.readouterr().err


def boasting(sent, target, **card):
    """A difference whose card says what its sender likes, with a valid check sum."""
    folder = shutil.copytree(sent, target)
    edit(folder, card=json.loads((folder / "delta.json").read_bytes())["card"] | card)
    return folder


def received(folder, root, *words):
    """Import by the command that people use; return its exit code."""
    words = [f"forest={root}", f"from={folder}", "format=delta8", "name=came", *words]
    return main.main(["import", *words])


def test_losses_are_measured_here_and_the_senders_are_hearsay(
    sent, parents, workspace, tmp_path, capsys
):
    text = [word for word in workspace if not word.startswith("forest=")]
    better = {"valid_nats": 0.01, "parent_valid_nats": {"bible": 9.0}, "forced": True}
    folder = boasting(sent, tmp_path / "boasting", **better)
    forest = Forest(parents)
    # The sender's word opens nothing: here the seed's twin on code is worse than its parents.
    words = [*text, "domain=code_python"]
    assert received(folder, parents, *words) == 2
    assert "is worse than its parent" in capsys.readouterr().err
    assert "came" not in forest and not forest.has_branch("came")

    assert received(folder, parents, *words, "merge.force=true") == 0
    card = forest["came"].card
    config = compose([*words, f"forest={parents}"])
    shard = open_suites(config).shard("code_python", "valid")
    scores, (tokens, _) = score_cache.scores_of(config, forest), shard.head(1024)

    def nats(sha256):
        return scoring.mean_nats(score_cache.read(scores, shard, sha256), tokens)

    assert card.forced
    assert card.valid_nats == nats(card.sha256) > 1
    assert card.parent_valid_nats == {n: nats(forest[n].card.sha256) for n in card.parents}
    assert "the sender measured 0.0100 nats/token and merged it although" in card.notes[-1]
    assert "not measured" not in card.notes[-1]


def test_without_our_text_nothing_is_known(sent, parents, tmp_path, capsys):
    folder = boasting(sent, tmp_path / "boasting", valid_nats=0.01, forced=True)
    assert received(folder, parents, f"data.out={tmp_path}", "data.name=none") == 0
    assert "came is not measured: no prepared suite" in capsys.readouterr().err
    card = Forest(parents)["came"].card
    assert (card.valid_nats, card.parent_valid_nats, card.forced) == (None, {}, False)
    assert "0.0100 nats/token" in card.notes[-1]
    assert "not measured here: no valid split of 'speeches' is prepared" in card.notes[-1]
