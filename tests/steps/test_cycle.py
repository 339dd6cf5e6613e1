"""Whole cycles of pico models: what a forest holds, how branches begin, what may be merged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import tree
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from btm import steps
from btm.cli import preflight
from btm.cli.compose import compose
from btm.ensemble import posterior
from btm.errors import UserError
from btm.forest import Forest
from btm.forest.card import Card
from btm.models import causal_lm, weights
from btm.report import Reporter
from btm.steps import domain_weights, score_cache
from btm.steps.report import results

IDS = torch.arange(3 * 40).view(3, 40)


def test_a_run_grows_every_expert(grown, forest):
    assert forest.names() == ["bible", "code_python", "seed", "speeches"]
    assert not forest.branches()
    assert [elm.name for elm in forest.experts()] == ["bible", "code_python", "speeches"]
    assert (forest.root / "averages" / "uniform" / "model.safetensors").is_file()


def test_the_result_has_every_number(grown, forest):
    _, result = grown
    assert json.loads((forest.root / "evals" / "forest.json").read_text()) == result
    assert (forest.root / "evals" / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert set(result["shards"]) == {
        f"{d}/test" for d in ("bible", "code_python", "speeches", "novels")
    }
    assert result["elms"] == {elm.name: elm.card.sha256 for elm in forest.elms()}
    for name, shard in result["shards"].items():
        assert shard["novel"] == (name == "novels/test")
        assert set(shard["experts"]) == set(forest.names())
        assert sum(shard["prior"].values()) == pytest.approx(1)
        assert sum(shard["mean_posterior"].values()) == pytest.approx(1)
        for numbers in [shard["ensemble"], *shard["experts"].values()]:
            assert numbers["perplexity"] == pytest.approx(np.exp(numbers["nats_per_token"]))
            nats = numbers["nats_per_token"] * shard["tokens"]
            assert numbers["bits_per_byte"] == pytest.approx(nats / np.log(2) / shard["bytes"])


def test_experts_are_better_than_the_seed_at_home(grown):
    for domain in ("bible", "code_python", "speeches"):
        shard = grown[1]["shards"][f"{domain}/test"]
        assert shard["experts"][domain]["perplexity"] < shard["experts"]["seed"]["perplexity"]
        assert shard["ensemble"]["perplexity"] < shard["experts"]["seed"]["perplexity"]


def test_running_again_does_nothing(grown):
    config, result = grown
    before = tree(config.forest_root)
    again = steps.run(config)
    assert again["shards"] == result["shards"]
    changed = {path for path, stat in tree(config.forest_root).items() if before.get(path) != stat}
    assert {path.rpartition("/")[2] for path in changed} <= {"forest.json", "forest.png"}
    assert not any("/elms/" in path or "/scores/" in path for path in changed)


def test_an_elm_is_scored_while_named_experts_are_still_to_come(copy):
    def splits():
        folders = (Path(config.forest_root) / "scores").glob("*-t512")
        return {folder.name.split("-")[1] for folder in folders}

    config = copy("ensemble.experts=[speeches]", "score.max_tokens=512")
    shutil.rmtree(Path(config.forest_root) / "elms" / "speeches")
    steps.score_for_eval(config, "seed")
    assert splits() == {"test"}  # it is no member, whose prior would need the valid split
    config.ensemble.experts = ["seed", "speeches"]
    steps.score_for_eval(config, "seed")
    assert splits() == {"test", "valid"}


def test_a_later_round_branches_from_the_earlier_experts(forest):
    card = forest["speeches"].card
    assert set(card.parents) <= {"bible", "code_python"}
    assert card.branch_method == "posterior"
    assert "cached prior on speeches/valid" in card.estimator
    assert sum(parent.weight for parent in card.parents.values()) == pytest.approx(1)
    for name, parent in card.parents.items():
        assert parent.sha256 == forest[name].card.sha256
    assert set(forest["bible"].card.parents) == {"seed"}


def test_an_elm_folder_needs_no_code_of_ours(forest):
    for elm in forest.elms():
        theirs = AutoModelForCausalLM.from_pretrained(elm.path).eval()
        with torch.no_grad():
            assert torch.equal(theirs(IDS).logits, elm.load()(IDS).logits)
        tokenizer = AutoTokenizer.from_pretrained(elm.path)
        assert tokenizer.decode(tokenizer("In the beginning é").input_ids) == "In the beginning é"
        assert elm.card.sha256 == weights.sha256(elm.path)
        assert (elm.path / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_posterior_weights_are_the_cached_prior(grown, forest):
    config, _ = grown
    suite = steps.open_suite(config)
    experts = [forest[name] for name in ("bible", "code_python")]
    made, _ = domain_weights.domain_weights(config, forest, suite, "speeches", experts, "posterior")
    scores = score_cache.scores_of(config, forest)
    logp_EST = np.stack(
        [scores.read(suite.shard("speeches", "valid"), e.card.sha256) for e in experts]
    )
    # A last window that is not full would count as much as another.
    whole = suite.shard("speeches", "valid").head(config.score.max_tokens)[0] // config.window
    prior = np.exp(posterior.cached_prior(logp_EST[:, :whole].swapaxes(0, 1), 0.3))
    for name, weight in made.items():
        assert weight == pytest.approx(prior[["bible", "code_python"].index(name)])
    assert forest["speeches"].card.parents.keys() == made.keys()

    made, estimator = domain_weights.domain_weights(
        config, forest, suite, "speeches", experts, "token"
    )
    assert estimator.startswith("token prior on speeches/valid")
    wanted = np.exp(posterior.token_prior(logp_EST[:, :100]))
    kept = wanted >= domain_weights.NEGLIGIBLE
    assert list(made.values()) == pytest.approx(wanted[kept])


@pytest.mark.parametrize(
    ("overrides", "parents"),
    [
        (["branch=copy"], {"seed": 1.0}),
        (["branch=copy", "parent=bible"], {"bible": 1.0}),
        (["branch=uniform"], {"bible": 1 / 3, "code_python": 1 / 3, "speeches": 1 / 3}),
        (["weights={seed: 1, bible: 3, code_python: 0}"], {"seed": 0.25, "bible": 0.75}),
    ],
)
def test_branch_is_the_closed_form(copy, overrides, parents):
    config = copy(*overrides)
    forest = Forest(config.forest_root)
    made = steps.branch(config, "new", "novels")
    assert {name: p.weight for name, p in made.parents.items()} == pytest.approx(parents)
    found = load_file(made.path / "model.safetensors")
    parts = {name: load_file(forest[name].path / "model.safetensors") for name in parents}
    for key, tensor in found.items():
        exact = sum(weight * parts[name][key].double() for name, weight in parents.items())
        torch.testing.assert_close(tensor.double(), exact, rtol=2**-23, atol=1e-45)
    assert made.origin["parents"].keys() == parents.keys()


def test_branch_argmax_copies_the_likeliest(copy):
    config = copy("branch=argmax")
    made = steps.branch(config, "new", "novels")
    assert len(made.parents) == 1
    (name,) = made.parents
    source = Forest(config.forest_root)[name]
    assert weights.sha256(made.path) == source.card.sha256


def test_average_for_a_domain(copy):
    config = copy("weights=posterior", "domain=bible")
    path = steps.average(config)
    assert path.name == "posterior-bible"
    before = tree(path)
    assert steps.average(config) == path
    assert tree(path) == before
    argmax = steps.average(replace(config, weights="argmax"))
    assert weights.sha256(argmax) == Forest(config.forest_root)["bible"].card.sha256
    given = steps.average(replace(config, weights={"bible": 1, "speeches": 1}, domain=None))
    assert causal_lm.load_model(given)
    assert steps.average(replace(config, weights="argmax", domain=None)).name == "argmax"


def test_an_expert_worse_than_its_parent_is_refused(copy):
    config = copy(
        "trainer.lr=0.5",
        "trainer.steps=3",
        "weights={bible: 1}",
        "trainer.warmup=0",
        "trainer.carry=fresh",
    )
    forest = Forest(config.forest_root)
    steps.branch(config, "worse", "bible")
    steps.train(config, "worse")
    with pytest.raises(UserError, match="worse than its parent 'bible'"):
        steps.merge(config, "worse")
    assert "worse" not in forest
    assert forest.get_branch("worse").result is not None
    config.merge.force = True
    card = steps.merge(config, "worse").card
    assert card.forced
    assert card.valid_nats > card.parent_valid_nats["bible"]


def trained_branch(config, name="new"):
    steps.branch(config, name, "bible")
    return steps.train(config, name)


def test_merge_refuses_nan_and_strangers(copy):
    config = copy("weights={bible: 1}", "trainer.steps=2", "merge.force=true")
    forest = Forest(config.forest_root)
    made = trained_branch(config)
    file = made.path / "model.safetensors"
    whole = file.read_bytes()

    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="NaN or an infinity in tensor"):
        forest.merge(made, force=True)

    file.write_bytes(whole)
    settings = json.loads((made.path / "config.json").read_text())
    (made.path / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))
    with pytest.raises(UserError, match="another architecture"):
        forest.merge(made, force=True)

    (made.path / "config.json").write_text(json.dumps(settings))
    tokenizer = (made.path / "tokenizer.json").read_text()
    (made.path / "tokenizer.json").write_text(
        tokenizer.replace('"ĠGod"', '"ĠG0d"').replace('"Ġthe"', '"Ġthé"')
    )
    with pytest.raises(UserError, match="another tokenizer"):
        forest.merge(made, force=True)

    (made.path / "tokenizer.json").write_text(tokenizer)
    assert forest.merge(made, force=True).name == "new"
    assert not list((forest["new"].path).glob("checkpoint-*"))


def test_merge_wants_training_and_a_free_name(copy):
    config = copy("branch=copy")
    forest = Forest(config.forest_root)
    made = steps.branch(config, "new", "bible")
    with pytest.raises(UserError, match="not trained yet: btm train expert=new"):
        forest.merge(made)
    with pytest.raises(UserError, match="has a branch 'new' already"):
        steps.branch(config, "new", "bible")
    with pytest.raises(UserError, match="has an ELM 'bible' already"):
        steps.branch(config, "bible", "bible")
    made.path.rename(made.path.parent / "speeches")
    with pytest.raises(UserError, match="never replaced"):
        forest.merge(forest.get_branch("speeches"))


def test_a_forest_has_one_architecture_and_one_tokenizer(copy):
    config = copy("model.config.hidden_size=32")
    with pytest.raises(UserError, match=r"model\.config\.hidden_size was 64, now 32"):
        steps.seed(config)


def test_the_prior_is_never_fitted_on_what_is_evaluated(copy):
    for fitted in ("cached", "em", "tracking", "fixed_share", "last_token", "gated"):
        with pytest.raises(UserError, match="on its own data"):
            steps.eval_forest(copy("eval.split=valid", f"ensemble={fitted}"))
    result = steps.eval_forest(copy("eval.split=valid", "ensemble=uniform", "eval.name=v"))
    assert set(result["shards"]) >= {"bible/valid"}


@pytest.fixture
def test_is_valid(grown, tmp_path):
    """The suite again, but the test split of its domain `novels` is its valid split, byte for
    byte.
    """
    out = tmp_path / "data"
    shutil.copytree(grown[0].data.out, out)
    (folder,) = out.glob("*/novels")
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["test"] = meta["splits"]["valid"]
    (folder / "meta.json").write_text(json.dumps(meta))
    for ending in ("bin", "idx", "docs"):
        shutil.copyfile(folder / f"valid.{ending}", folder / f"test.{ending}")
    return [f"data.out={out}", "eval.name=mine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fitted", ["cached", "em", "tracking", "fixed_share", "last_token", "gated"]
)
@pytest.mark.parametrize("fit", ["domain", "forest"])
def test_nor_on_the_same_text_under_another_name(copy, test_is_valid, fitted, fit):
    words = [*test_is_valid, f"ensemble={fitted}", f"ensemble.fit={fit}"]
    for domains in ("[]", "[novels]", "[bible,novels]"):
        with pytest.raises(
            UserError, match="fitted on novels/valid, so novels/test, of the same text"
        ):
            steps.eval_forest(copy(*words, f"eval.domains={domains}"))
        assert not (Path(copy().forest_root) / "evals" / "mine.json").exists()


def test_what_is_fitted_nowhere_may_be_measured_anywhere(copy, test_is_valid):
    for words in (
        ["ensemble=uniform"],
        ["ensemble=updating"],
        ["ensemble=tracking", "ensemble.prior=uniform", "ensemble.alpha=0.1", "ensemble.beta=0.9"],
    ):
        result = steps.eval_forest(copy(*test_is_valid, *words, "eval.domains=[novels]"))
        assert set(result["shards"]) == {"novels/test"}
    assert steps.eval_forest(copy(*test_is_valid, "eval.domains=[bible]"))["shards"]


@pytest.mark.parametrize("fit", ["domain", "forest"])
def test_an_evaluation_says_what_gate_was_fitted(copy, fit):
    words = [
        "ensemble=gated",
        f"ensemble.fit={fit}",
        "ensemble.top_k=2",
        "eval.domains=[bible,novels]",
    ]
    shards = steps.eval_forest(copy(*words, "eval.name=x"))["shards"]
    gates = [list(shard["gate"].values()) for shard in shards.values()]
    assert (gates[0] == gates[1]) == (fit == "forest")
    again = steps.eval_forest(copy(*words, "eval.name=y", f"ensemble.gate={gates[0]}"))["shards"]
    assert again["bible/test"]["ensemble"] == shards["bible/test"]["ensemble"]


def test_an_evaluation_tells_what_the_text_alone_gives(copy):
    """A uniform prior, and a gate that is fitted on the domains trained on: none is given away."""
    shards = steps.eval_forest(copy("eval.name=both"))["shards"]
    words = ["ensemble.prior=uniform", "ensemble.fit=forest", "eval.name=alone"]
    alone = steps.eval_forest(copy(*words))["shards"]
    for name, shard in shards.items():
        assert shard["by_text_alone"] == alone[name]["ensemble"]
        assert shard["by_text_alone"] != shard["ensemble"]
    some = steps.eval_forest(copy("eval.name=some", "eval.domains=[novels]"))["shards"]
    assert "by_text_alone" not in some["novels/test"]  # it would need scores of other domains


def test_a_uniform_prior_chooses_no_top_k(copy):
    with pytest.raises(UserError, match=r"ensemble\.top_k=2: a uniform prior favours no expert"):
        copy("ensemble=uniform", "ensemble.top_k=2")


@pytest.mark.parametrize("prior", ["updating", "cached", "em"])
def test_every_prior_and_top_k(copy, prior):
    config = copy(
        "ensemble=cached",
        f"ensemble.prior={prior}",
        "ensemble.top_k=2",
        "eval.name=x",
        "eval.domains=[bible,novels]",
    )
    shards = steps.eval_forest(config)["shards"]
    for shard in shards.values():
        if prior != "updating":
            assert sum(p > 0 for p in shard["prior"].values()) == 2
        best = min(n["nats_per_token"] for n in shard["experts"].values())
        assert shard["ensemble"]["nats_per_token"] < best + 1


def test_the_ensemble_is_the_posterior_of_the_scores(copy):
    config = copy("ensemble=cached", "eval.name=paper")
    result, forest = steps.eval_forest(config), Forest(config.forest_root)
    suite = steps.open_suite(config)
    scores = score_cache.scores_of(config, forest)
    shard = suite.shard("novels", "test")
    tokens, utf8_bytes = shard.head(config.score.max_tokens)
    logp_EST = np.stack([scores.read(shard, elm.card.sha256) for elm in forest.experts()])
    entry = result["shards"]["novels/test"]
    prior = np.log(list(entry["prior"].values()))
    nats = sum(posterior.mixture(logp_EST[:, s], prior).sum() for s in range(logp_EST.shape[1] - 1))
    rest = tokens - (logp_EST.shape[1] - 1) * config.window
    nats += posterior.mixture(logp_EST[:, -1, :rest], prior).sum()
    assert (entry["tokens"], entry["bytes"]) == (tokens, utf8_bytes)
    assert -nats / tokens == pytest.approx(entry["ensemble"]["nats_per_token"])


def test_importing_a_hugging_face_model(grown, workspace, forest, tmp_path):
    source = forest["bible"]
    config = compose([*workspace, f"forest={tmp_path / 'forest'}", f"seed.from={source.path}"])
    elm = steps.seed(config)
    with torch.no_grad():
        assert torch.equal(elm.load()(IDS).logits, source.load()(IDS).logits)
    assert elm.card.source == str(source.path)
    assert elm.card.tokens == 0
    made = steps.branch(config, "bible", "bible")
    steps.train(config, "bible")
    assert made.result["notes"] == []


@pytest.mark.parametrize("kind", ["debug", "local"])
def test_a_seed_from_weights_that_have_changed_is_refused(copy, workspace, forest, tmp_path, kind):
    source = shutil.copytree(forest["bible"].path, tmp_path / "source")
    words = [*workspace, f"forest={tmp_path / 'new'}", f"seed.from={source}"]
    words += [f"cluster={kind}"]
    elm = steps.seed(compose(words))
    assert steps.seed(compose(words)) == elm
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    said = f"{elm.card.source_sha256[:12]}, and .* holds others .{weights.sha256(source)[:12]}"
    with pytest.raises(UserError, match=said):
        steps.seed(compose(words))
    with pytest.raises(UserError, match=said):
        preflight.check("run", compose(words))
    shutil.rmtree(source)  # what nothing is imported from any more may go
    assert steps.seed(compose(words)) == elm


def test_importing_refuses_what_does_not_fit(workspace, tmp_path, forest):
    def attempt(source):
        return compose([*workspace, f"forest={tmp_path / 'forest'}", f"seed.from={source}"])

    with pytest.raises(UserError, match="no such folder"):
        steps.seed(attempt(tmp_path / "none"))
    other = tmp_path / "other"
    forest["bible"].load().save_pretrained(other)
    with pytest.raises(UserError, match="tokenizer"):
        steps.seed(attempt(other))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((forest["bible"].path / name).read_bytes())
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(UserError, match="never run"):
        steps.seed(attempt(other))
    (other / "config.json").write_text(json.dumps(settings))
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickle can run anything"):
        steps.seed(attempt(other))


def test_a_twin_that_branches_first_is_no_mistake(copy, monkeypatch):
    """Slurm may start a job twice; both find no branch, and one is slower."""
    config, branch = copy("trainer.steps=2", "merge.force=true"), steps.branch
    shutil.rmtree(Path(config.forest_root) / "elms/bible")

    def both(*arguments, **more):
        branch(*arguments, **more)
        return branch(*arguments, **more)

    monkeypatch.setattr(steps, "branch", both)
    assert steps.grow_expert(config, "bible", ["seed"]).name == "bible"


def test_a_long_average_and_a_branch_show_that_they_live(copy, monkeypatch):
    """Else a job that averages many large ELMs would be taken for hung."""

    class Watcher(Reporter):
        signs = 0

        def alive(self):
            self.signs += 1

    monkeypatch.setattr(
        "btm.models.average.stream._PULSE", 0.0
    )  # these are made in less than the usual second
    watcher = Watcher()
    config = copy("branch=uniform")
    for attempt in range(5):  # on busy cores all threads may be done before they are looked at once
        before = watcher.signs
        average = replace(config.average, name=f"live-{attempt}", measure=False)
        steps.average(replace(config, average=average), watcher)
        if watcher.signs > before + 1:
            break
    else:
        pytest.fail("not more than one sign of life in five averages")
    averaged = watcher.signs
    steps.branch(config, "live", "novels", reporter=watcher)
    assert watcher.signs > averaged


def test_without_a_seed_phase_experts_branch_from_random_parameters(workspace, tmp_path):
    config = compose(
        [
            *workspace,
            f"forest={tmp_path / 'forest'}",
            "seed.steps=0",
            "trainer.steps=3",
            "run.rounds=[[bible]]",
        ]
    )
    steps.run(config)
    forest = Forest(config.forest_root)
    seed, bible = forest["seed"], forest["bible"]
    made = causal_lm.new_model(seed.load().config, config.trainer.seed)
    assert all(
        torch.equal(a, b) for a, b in zip(seed.load().parameters(), made.parameters(), strict=True)
    )
    assert (seed.card.steps, seed.card.domains) == (0, [])
    assert (bible.card.steps, list(bible.card.parents)) == (3, ["seed"])
    assert json.loads((forest.root / "evals/forest.json").read_text())["shards"]["bible/test"]


@pytest.mark.slow
def test_cards_say_what_the_suite_states_of_the_text(workspace, tmp_path):
    root = tmp_path / "texts"
    shutil.copytree(compose(workspace).data.root, root)
    packages = [{"name": "a Bible", "license": "cc0-1.0", "url": ""}, {"name": "a program"}]
    about = {
        "bible": {"languages": ["en"], "sources": packages[:1]},
        "speeches": {"languages": ["en-US"]},
        "code_python": {"sources": packages},
        "novels": {"novel": True, "languages": ["fr"]},
    }
    (root / "suite.json").write_text(json.dumps({"domains": about}))
    words = [f"data.root={root}", f"data.out={tmp_path / 'data'}", f"forest={tmp_path / 'forest'}"]
    words += ["run.rounds=[[bible,code_python]]", "run.average=false"]
    config = compose([*workspace, *words, "trainer.steps=2", "seed.steps=2"])
    steps.run(config)
    forest = Forest(config.forest_root)
    seed, bible, program = (forest[name].card for name in ("seed", "bible", "code_python"))
    assert {*seed.languages} == {"en", "en-US"} and seed.own_languages == seed.languages
    assert bible.own_languages == ["en"] and {*bible.languages} == {*seed.languages}
    assert program.own_languages == [] and {*program.languages} == {*seed.languages}
    assert [source.name for source in seed.sources] == ["a Bible", "a program"]
    assert {source.name: source.license for source in bible.sources} == {
        "a Bible": "cc0-1.0",
        "a program": "",
    }
    found = results.languages([seed, bible, program], None)
    assert [(each.tag, each.experts) for each in found] == [("en", ["bible"])]

    student = ["student=pupil", "distil.experts=[bible,code_python]", "distil.steps=2"]
    taught = compose([*workspace, *words, *student, "distil.domains=[code_python,speeches]"])
    pupil = Card.read(steps.distil(taught) / "card.json")
    assert pupil.own_languages == ["en-US"] and {*pupil.languages} == {*seed.languages}
    assert [source.name for source in pupil.sources] == ["a Bible", "a program"]
