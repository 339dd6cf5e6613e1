"""Mixtures of experts: made, measured, evaluated, changed by sums, trained, removed and made
again.
"""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from folders import tree
from transformers import AutoModelForCausalLM

from btm import steps
from btm.cli.main import main
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest, removal, verify
from btm.forest.card import Card
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, flops, weights
from btm.models.moe.hidden import Sums
from btm.report import Reporter
from btm.steps.rederive import rederive
from btm.system import lease
from btm.train.moe import MoeTrainee, routers_of

EXPERTS = ["bible", "code_python", "speeches"]
QUICK = ("moe.tokens=512", "average.measure=false")
TRAINED = ("moe.steps=4", "trainer.checkpoint_every=1", "average.measure=false")


def made(config):
    path = steps.moe(config)
    return path, Card.read(path / "card.json")


def test_a_mixture_is_sealed_measured_and_a_row_of_an_evaluation(copy):
    config = copy("moe.name=mine", "moe.tokens=512")
    path, card = made(config)
    forest = Forest(config.forest_root)
    assert path == forest.root / "moes/mine"
    assert not verify.verify(forest.root, full=True, only="moes/mine")
    assert set(card.measured) == set(card.domains) == set(EXPERTS)
    assert card.sha256 == weights.sha256(path)
    assert {name: p.sha256 for name, p in card.parents.items()} == {
        name: forest[name].card.sha256 for name in EXPERTS
    }
    assert sum(p.weight for p in card.parents.values()) == pytest.approx(1)
    assert card.recipe == {
        "router": "ridge", "top_k": 2, "ridge": 1.0, "tokens": 512, "reader": "average",
    }  # fmt: skip
    # What it read, and what all its ancestors were trained on.
    suite = steps.open_suites(config)
    assert card.data == {name: suite.shard(name, "train").sha256 for name in EXPERTS}
    heads = [suite.shard(name, "train").head(512)[0] for name in EXPERTS]
    assert card.tokens == sum(heads)
    spent = sum({(a.name, a.sha256): a.tokens for a in card.ancestors}.values())
    assert card.total_tokens == card.tokens + spent
    # A token runs two of three networks.
    model = AutoModelForCausalLM.from_pretrained(path)
    assert card.matrix_parameters == flops.Shape.of(model).matrix_parameters
    assert card.parameters == model.num_parameters()
    found = steps.eval_forest(config)
    row = found["ledger"]["models"]["mine"]
    elm = found["ledger"]["elms"]["bible"]["inference_flops_per_token"]
    assert elm < row["inference_flops_per_token"] < 2 * elm
    assert "mine" in next(iter(found["shards"].values()))["models"]
    kept = path.stat().st_mtime_ns
    assert steps.moe(config) == path
    assert path.stat().st_mtime_ns == kept  # it stands: nothing is made


@pytest.mark.parametrize("router", ["ridge", "domain", "random"])
def test_leaving_and_joining_gives_what_is_made_anew_bit_for_bit(copy, router, monkeypatch):
    words = [f"moe.router={router}", *(QUICK if router != "random" else QUICK[1:])]
    # The seed reads alike whoever takes part, so that sums are the same too.
    words += ["moe.reader=seed"] if router != "random" else []
    path, three = made(copy("moe.name=mine", *words))
    _, two = made(copy("moe.name=two", "moe.experts=[bible,speeches]", *words))
    read = []
    monkeypatch.setattr(Reporter, "scoring", counting(Reporter.scoring, read))
    _, left = made(copy("moe.name=mine", "moe.remove=[code_python]", "average.measure=false"))
    assert (left.sha256, left.recipe) == (two.sha256, two.recipe)
    assert left.tokens == two.tokens
    assert not read  # nothing was read for it
    _, joined = made(copy("moe.name=mine", "moe.add=[code_python]", "average.measure=false"))
    assert joined.sha256 == three.sha256
    assert read == ([] if router == "random" else ["hidden states of code_python"])
    assert sorted(f.name for f in path.glob("sums-*")) == (
        [] if router == "random" else [f"sums-{name}.safetensors" for name in EXPERTS]
    )


def test_what_another_average_or_window_has_read_is_read_again(copy):
    two = "moe.experts=[bible,speeches]"
    path, _ = made(copy("moe.name=mine", *QUICK))
    before = Sums.read(path / "sums-bible.safetensors")
    _, fresh = made(copy("moe.name=fresh", two, *QUICK))
    _, fewer = made(copy("moe.name=mine", two, *QUICK))
    assert fewer.sha256 == fresh.sha256
    assert (fewer.recipe, fewer.settings) == (fresh.recipe, fresh.settings)
    after = Sums.read(path / "sums-bible.safetensors")
    assert before.model != after.model
    assert not np.array_equal(before.gram, after.gram)
    config = copy("moe.name=mine", two, *QUICK, "score.window=32")
    assert not steps.plan_of_moe(config).idle
    _, narrow = made(config)
    assert (narrow.settings, fewer.settings) == ({"score.window": 32}, {"score.window": 64})
    assert narrow.sha256 != fewer.sha256
    _, fresh = made(copy("moe.name=fresh", two, *QUICK, "score.window=32"))
    assert narrow.sha256 == fresh.sha256
    # A card from before the window was recorded is held to the rest alone.
    file = path / "card.json"
    file.write_text(json.dumps(narrow.to_json() | {"settings": {}}))
    assert steps.plan_of_moe(copy("moe.name=mine", two, *QUICK)).idle


def test_one_that_keeps_what_an_earlier_average_read_says_so(copy, monkeypatch):
    path, three = made(copy("moe.name=mine", *QUICK))
    whole = Sums.read(path / "sums-bible.safetensors").model
    read = []
    monkeypatch.setattr(Reporter, "scoring", counting(Reporter.scoring, read))
    _, left = made(copy("moe.name=mine", "moe.remove=[code_python]", "average.measure=false"))
    assert left.recipe == three.recipe | {"read_by": {"bible": whole, "speeches": whole}}
    assert not read
    # So it is not passed off as one that is made of the two at once.
    two = copy("moe.name=mine", "moe.experts=[bible,speeches]", *QUICK)
    assert not steps.plan_of_moe(two).idle
    _, joined = made(copy("moe.name=mine", "moe.add=[code_python]", "average.measure=false"))
    assert (joined.sha256, joined.recipe) == (three.sha256, three.recipe)
    assert read == ["hidden states of code_python"]
    made(copy("moe.name=mine", "moe.remove=[code_python]", "average.measure=false"))
    _, anew = made(two)
    assert anew.recipe == three.recipe
    assert (anew.parents, anew.sha256 == left.sha256) == (left.parents, False)


def counting(scoring, read):
    """`Reporter.scoring` that notes what is read in `read`."""

    def noted(self, name, tokens):
        read.append(name)
        return scoring(self, name, tokens)

    return noted


@pytest.mark.parametrize("reader", ["average", "seed", "expert"])
def test_sums_are_of_the_hidden_states_of_the_reader(copy, reader):
    config = copy("moe.name=mine", *QUICK, f"moe.reader={reader}")
    path, _ = made(config)
    sums = Sums.read(path / "sums-bible.safetensors")
    forest = Forest(config.forest_root)
    source = {"average": "averages/uniform", "seed": "elms/seed", "expert": "elms/bible"}[reader]
    if reader != "average":
        assert sums.model == Card.read(forest.root / source / "card.json").sha256
    model = causal_lm.load_model(forest.root / source)
    seen = []
    norm = model.model.layers[0].post_attention_layernorm
    norm.register_forward_hook(lambda module, given, out: seen.append(out.flatten(0, 1)))
    shard = steps.open_suites(config).shard("bible", "train")
    ids = np.concatenate([[shard.eos], shard.tokens[: sums.tokens]]).astype(np.int64)
    window = config.window
    with torch.no_grad():
        for start in range(0, sums.tokens, window):
            model(torch.from_numpy(ids[start : min(start + window, sums.tokens)])[None])
    total = torch.cat(seen).double().sum(0).numpy()
    assert sums.tokens == sum(len(each) for each in seen)
    np.testing.assert_allclose(sums.total[0], total, rtol=1e-3, atol=1e-2)


class Stops(Reporter):
    def pulse(self, step):
        return step == 2


@pytest.mark.parametrize("router", ["btx", "base"])
def test_training_goes_on_bit_for_bit_where_it_was_stopped(copy, router):
    words = (f"moe.router={router}", "moe.train=all", *TRAINED)
    _, whole = made(copy("moe.name=whole", "trainer.seed=3", *words))

    config = copy("moe.name=parts", "trainer.seed=3", *words)
    with pytest.raises(TrainingStoppedError):
        steps.moe(config, Stops())
    home = Forest(config.forest_root).root / "moes"
    assert not (home / "parts").exists()
    with pytest.raises(UserError, match="half made of other ELMs or text or with other settings"):
        steps.moe(copy("moe.name=parts", f"moe.router={router}", "moe.steps=5"))
    _, parts = made(config)
    # The name decides the order of the text, so the whole one is made again under the same name.
    removal.remove_derived(Forest(config.forest_root), "moes/parts")
    _, again = made(config)
    assert parts.sha256 == again.sha256
    assert parts.exact
    assert parts.sha256 != whole.sha256
    assert (parts.steps, parts.tokens) == (4, again.tokens)
    assert not (home / ".parts").exists()


def test_a_mixture_trained_by_other_settings_is_not_passed_off_as_this_one(copy):
    words = ("moe.name=mine", "moe.router=btx", *TRAINED)
    path, first = made(copy(*words, "trainer.lr=1e-3"))
    before = tree(path)
    _, same = made(copy(*words, "trainer.lr=1e-3"))
    assert same == first
    assert tree(path) == before
    _, other = made(copy(*words, "trainer.lr=2e-2"))
    assert (first.settings["trainer.lr"], other.settings["trainer.lr"]) == (1e-3, 2e-2)
    assert other.sha256 != first.sha256


def test_a_half_made_mixture_goes_with_an_expert_or_by_its_name(copy):
    config = copy("moe.name=half", "moe.router=btx", *TRAINED)
    forest = Forest(config.forest_root)
    home = forest.root / "moes/.half"
    for remove in (
        lambda: removal.remove_derived(forest, "moes/half"),
        lambda: removal.remove(forest, "speeches"),
    ):
        with pytest.raises(TrainingStoppedError):
            steps.moe(config, Stops())
        held = lease.take(home)
        with pytest.raises(UserError, match="half"):
            remove()
        assert held.path.is_dir()
        held.release()
        remove()
        assert not list((forest.root / "moes").glob(".half*"))
    assert "speeches" not in forest


def test_what_a_kill_after_the_publishing_left_is_deleted(copy):
    config = copy("moe.name=late", "moe.router=btx", *TRAINED)
    made(config)
    home = Forest(config.forest_root).paths.moe_in_making("late")
    shutil.copytree(home.with_name("late"), home)
    card = Card.read(home / "card.json")
    parents = {name: asdict(parent) for name, parent in card.parents.items()}
    of = {"recipe": card.recipe, "settings": card.settings, "data": card.data, "parents": parents}
    making = ModelFolder(home).making
    making.write_text(json.dumps(of | {"settings": {"trainer.lr": 1.0}}))
    made(config)
    assert home.is_dir()  # half made with other settings: somebody may go on with it
    making.write_text(json.dumps(of))
    made(config)
    assert not home.exists()


def test_the_router_alone_is_trained_unless_all_is(copy):
    random, _ = made(copy("moe.name=begun", "moe.router=random", "average.measure=false"))
    path, card = made(copy("moe.name=tuned", "moe.router=btx", *TRAINED))
    before, after = (weights.tensors(folder) for folder in (random, path))
    changed = {n for n, t in before.items() if t.raw().tobytes() != after[n].raw().tobytes()}
    assert changed == {name for name in before if name.endswith(".gate.weight")}
    assert card.lr
    assert card.data.keys() == set(EXPERTS)


def test_base_gives_every_expert_as_many_tokens_while_it_trains(copy):
    config = copy("moe.router=base", *TRAINED)
    path, card = made(config)
    assert card.recipe["top_k"] == 1
    model = causal_lm.load_trainable(path, "cpu")
    MoeTrainee(model, None, "base", "router", 0.0)
    torch.manual_seed(0)
    gate = routers_of(model)[0]
    hidden = torch.randn(90, gate.hidden_dim)
    _, share, chosen = gate.forward(hidden)
    assert torch.bincount(chosen[:, 0], minlength=3).tolist() == [30, 30, 30]
    assert torch.equal(share, torch.ones_like(share))
    # Its gradient is that of log p(expert).
    share.sum().backward()
    found, gate.weight.grad = gate.weight.grad.clone(), None
    logits = hidden @ gate.weight.T
    logits.log_softmax(-1).gather(1, chosen).sum().backward()
    torch.testing.assert_close(found, gate.weight.grad)
    gate.eval()
    logits, share, chosen = gate.forward(hidden)
    assert torch.equal(chosen[:, 0], logits.argmax(-1))
    uneven = gate.train().forward(torch.randn(91, gate.hidden_dim))[2]
    assert sorted(torch.bincount(uneven[:, 0], minlength=3).tolist()) == [30, 30, 31]


def test_a_removal_names_the_mixture_and_makes_it_again_without(copy):
    config = copy("moe.name=mine", "moe.reader=seed", *QUICK)
    made(config)
    forest = Forest(config.forest_root)
    heirs = removal.consequences(forest, "speeches").heirs
    assert ("MoE", "mine") in {(heir.kind, heir.name) for heir in heirs}
    wanted = made(
        copy("moe.name=two", "moe.experts=[bible,code_python]", "moe.reader=seed", *QUICK)
    )
    rows = {row["name"]: row for row in rederive(config, "speeches")}
    assert rows["mine"]["now"] == "made again"
    card = Card.read(forest.root / "moes/mine/card.json")
    assert card.sha256 == wanted[1].sha256
    assert "speeches" not in json.dumps(card.to_json())
    assert not (forest.root / "moes/mine/sums-speeches.safetensors").exists()
    assert not [f for f in verify.verify(forest.root, full=True) if not f.note]


def test_its_router_is_trained_again_with_the_settings_on_its_card(copy):
    words = ("moe.name=mine", "moe.router=btx", *TRAINED)
    path, old = made(copy(*words, "trainer.batch_size=2", "trainer.lr=2e-3"))
    (row,) = [row for row in rederive(copy(*words), "speeches") if row["name"] == "mine"]
    new = Card.read(path / "card.json")
    assert (row["now"], row["why"]) == ("made again", "") and "speeches" not in new.parents
    assert new.settings == old.settings and new.settings["trainer.batch_size"] == 2


def test_with_one_expert_left_it_is_deleted(copy):
    config = copy("moe.name=mine", "moe.experts=[bible,speeches]", *QUICK)
    made(config)
    (row,) = [row for row in rederive(config, "speeches") if row["name"] == "mine"]
    assert (row["now"], row["why"]) == ("deleted", "fewer than two of its experts are left")
    assert not (Forest(config.forest_root).root / "moes/mine").exists()


REFUSED = {
    "one expert": (["moe.experts=[bible]"], "at least two experts"),
    "a stranger": (["moe.experts=[bibel,speeches]"], "no ELM 'bibel'"),
    "an unknown router": (["moe.router=rigde"], "moe.router='rigde'"),
    "an unknown reader": (["moe.reader=me"], "moe.reader='me'"),
    "too many for a token": (["moe.top_k=4"], "there are 3 experts"),
    "none for a token": (["moe.top_k=0"], "wanted 1 or more"),
    "two of base's": (["moe.router=base", "moe.top_k=2"], "sends each token to one expert"),
    "no λ": (["moe.ridge=0"], "wanted more than 0"),
    "λ of another router": (["moe.router=random", "moe.ridge=2"], "does not read it"),
    "steps of no training": (["moe.steps=3"], "give one of btx, base"),
    "weights of no expert": (["weights={seed: 1}"], "no expert 'seed'"),
    "an ELM of several domains": (["moe.experts=[seed,bible]"], "on no domain of its own"),
    "joining nothing": (["moe=none", "moe.add=[bible]"], "no MoE 'none'"),
    "joining without a name": (["moe.add=[bible]"], "give moe=NAME"),
    "leaving with a router": (["moe=x", "moe.remove=[bible]", "moe.router=domain"], "leave it out"),
    "coming and going": (["moe=x", "moe.add=[bible]", "moe.remove=[bible]"], "one at a time"),
    "an unknown domain": (["domain=nowhere"], "no domain 'nowhere'"),
    "a bad name": (["moe=../up"], "moe.name"),
    "a key of another verb": (["expert=bible"], "btm moe does not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_told_in_a_line_and_leave_nothing(grown, workspace, capsys, case):
    words, said = REFUSED[case]
    root = Forest(grown[0].forest_root).root
    before = tree(root)
    for flags in ([], ["--dry-run"]):
        assert main(["moe", *workspace, *words, *flags]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert tree(root) == before


def test_a_plan_is_shown_and_nothing_written(grown, workspace, capsys):
    root = Forest(grown[0].forest_root).root
    before = tree(root)
    assert main(["moe", *workspace, "moe.router=btx", "--dry-run", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["writes"] == [str(root / "moes/btx")]
    assert row["tokens"] > 0
    assert tree(root) == before


def test_generation_and_export_take_a_mixture(copy, tmp_path, capsys):
    config = copy("moe.name=mine", *QUICK)
    path, _card = made(config)
    words = [f"forest={config.forest_root}", f"data.out={config.data.out}"]
    asked = ["prompt=In the", "generate.tokens=4", "ensemble.experts=[moes/mine]"]
    assert main(["generate", *words, *asked, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["text"]) > 0
    assert main(["export", *words, "moe=mine", f"to={tmp_path / 'out'}"]) == 0
    ids = torch.arange(10)[None]
    models = [AutoModelForCausalLM.from_pretrained(f) for f in (path, tmp_path / "out")]
    with torch.no_grad():
        assert torch.equal(*(model(ids).logits for model in models))
