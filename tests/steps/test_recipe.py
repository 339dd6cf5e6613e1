"""Deployable models of a grown forest: every method, by the command that people use."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.config.average import AVERAGE_METHODS
from btm.ensemble import score as scoring
from btm.forest import Forest
from btm.forest.card import Card
from btm.models import causal_lm, weights
from btm.models.average import METHODS
from btm.steps import score_cache

SLERP = ["average.base=bible", "average.experts=[code_python]"]


def test_the_words_are_the_methods_there_are():
    assert set(AVERAGE_METHODS) == {*METHODS, "greedy_soup"}


@pytest.mark.parametrize("method", AVERAGE_METHODS)
def test_every_method_makes_a_model_that_loads(method, copy):
    words = SLERP if method == "slerp" else ["domain=bible"] if method == "greedy_soup" else []
    config = copy(f"average.method={method}", "average.sequences=3", *words)
    path = steps.average(config)
    forest, card = Forest(config.forest_root), Card.read(path / "card.json")
    assert method.replace("_", "-") in path.name or method == "linear"
    assert card.sha256 == weights.sha256(path)
    assert {name: p.sha256 for name, p in card.parents.items()} == {
        n: forest[n].card.sha256 for n in card.parents
    }
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits = causal_lm.load_model(path)(ids).logits
        assert torch.isfinite(logits).all()
        assert not torch.equal(logits, causal_lm.load_model(forest["seed"].path)(ids).logits)
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert steps.average(config) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before


def test_the_card_says_how_and_another_recipe_is_another_model(copy, workspace):
    words = ["average.method=ties", "average.name=deploy"]
    first = steps.average(copy(*words, "average.density=0.2"))
    card, sha256 = Card.read(first / "card.json"), weights.sha256(first)
    assert card.recipe == {"method": "ties", "base": "seed", "density": 0.2}
    told = (first / "README.md").read_text()
    assert (
        'made of its parents, weighted by `uniform`: method "ties", base "seed", density 0.2.'
        in told
    )
    assert card.parents["seed"].raw == 0  # what differences are taken from is an ancestor, too
    config = compose([*workspace, f"forest={first.parent.parent}", *words, "average.density=0.3"])
    again = steps.average(config)
    assert again == first
    assert weights.sha256(again) != sha256


@pytest.mark.parametrize(
    ("word", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")]
)
def test_the_dtype_is_stored_and_declared(word, dtype, copy):
    path = steps.average(copy(f"average.dtype={word}", "average.shard_gb=0.0001"))
    assert len(weights.files(path)) > 1
    assert json.loads((path / "config.json").read_bytes())["dtype"] == dtype
    assert next(causal_lm.load_model(path).parameters()).dtype == getattr(torch, dtype)


def test_a_greedy_soup_is_no_worse_than_its_best_ingredient(copy):
    config = copy(
        "average.method=greedy_soup",
        "domain=speeches",
        "average.experts=[bible,code_python,speeches,seed]",
    )
    path = steps.average(config)
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    valid = suite.shard("speeches", "valid")
    scores = scoring.Scores(forest.root / "scores", config.window, config.score.max_tokens)
    tokens, _ = valid.head(config.score.max_tokens)

    def nats(sha256):
        return scoring.mean_nats(scores.read(valid, sha256), tokens)

    card = Card.read(path / "card.json")
    assert nats(card.sha256) <= min(
        nats(forest[name].card.sha256) for name in config.average.experts
    )
    assert not list((forest.root / "averages").glob(".tmp-*"))


def test_fisher_information_is_the_mean_square_of_gradients(copy):
    config = copy(
        "average.method=fisher", "average.sequences=40", "average.experts=[bible,code_python]"
    )
    steps.average(config)
    root = Forest(config.forest_root).root
    folders = sorted((root / "fisher").iterdir())
    assert len(folders) == 2
    forest = Forest(config.forest_root)
    folder = next(f for f in folders if f.name.startswith(forest["bible"].card.sha256[:32]))
    found = load_file(folder / "model.safetensors")
    name = "model.norm.weight"
    model = causal_lm.load_model(forest["bible"].path, dtype=torch.float32)
    valid = steps.open_suite(config).shard("bible", "valid")
    total, seen = torch.zeros_like(found[name]), 0
    for start in (0, 64):
        ids = torch.from_numpy(valid.tokens[start : start + 64].astype(np.int64))[None]
        logp = torch.log_softmax(model(ids).logits[0], -1)
        for t in range(
            0, 64, 8
        ):  # of a token the expectation over y, but for what is unlikely, without drawing
            likely = logp[t].detach().exp().topk(30)
            for p, y in zip(likely.values, likely.indices, strict=True):
                (gradient,) = torch.autograd.grad(
                    logp[t, y], [model.model.norm.weight], retain_graph=True
                )
                total += p * gradient.square()
            seen += 1
    exact = total / seen
    assert np.corrcoef(exact.numpy(), found[name].numpy())[0, 1] > 0.5
    assert 1 / 3 < (found[name].sum() / exact.sum()).item() < 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["average.method=tise"], "did you mean 'ties'"),
        (["average.method=slerp"], "give average.base=A"),
        (["average.method=ties", "average.base=nobody"], "no ELM 'nobody'"),
        (["average.method=greedy_soup"], "greedy_soup weights are found for a domain"),
        (["average.method=greedy_soup", "weights=uniform"], "finds the weights itself"),
        (["average.density=0"], "average.density=0"),
        (["average.dtype=int8"], "choose one of fp32, bf16, fp16"),
        (["average.layers={lm.x: {bible: 1}}"], "no tensor is called 'lm.x'"),
        (["average.layers={*: {nobody: 1}}"], "'nobody' is none of"),
        (["average.layers={*: {bible: -1}}"], "average.method=linear takes none"),
    ],
)
def test_mistakes_are_one_line(words, message, grown, workspace, capsys):
    assert main.main(["average", *workspace, *words]) == 2
    said = capsys.readouterr().err.splitlines()
    # What the weights tell may come first: that the text of the experts shares little.
    (mistake,) = (line for line in said if not line.startswith("warning: the domains of "))
    assert message in mistake


def nats(config, folder, domain):
    """Those of a model on the first valid tokens of a domain, window by window, without any
    cache.
    """
    shard, eos = steps.open_suite(config).shard(domain, "valid"), steps.open_suite(config).eos
    tokens, _ = shard.head(config.score.max_tokens)
    ids = torch.from_numpy(shard.tokens[:tokens].astype("int64"))
    model, total = causal_lm.load_model(folder, dtype=torch.float32), 0.0
    with torch.no_grad():
        for start in range(0, tokens, config.window):
            targets = ids[start : start + config.window]
            before = ids[start - 1 : start] if start else torch.tensor([eos])
            inputs = torch.cat([before, targets[:-1]])
            total -= float(causal_lm.token_logp(model, inputs[None], targets[None]).double().sum())
    return total / tokens


def test_an_average_says_what_it_and_the_seed_are_worth_on_its_domains(grown, forest):
    config, _ = grown
    folder = forest.root / "averages/uniform"
    card = Card.read(folder / "card.json")
    assert set(card.measured) == {"bible", "code_python", "speeches"}
    for domain, part in card.measured.items():
        assert part.nats == pytest.approx(nats(config, folder, domain), rel=1e-5)
        assert part.seeds == {
            "seed": pytest.approx(nats(config, forest["seed"].path, domain), rel=1e-5)
        }
        head = steps.open_suite(config).shard(domain, "valid").head(config.score.max_tokens)
        assert (part.tokens, part.window) == (head[0], config.window)
    assert card.valid_nats == pytest.approx(np.mean([part.nats for part in card.measured.values()]))
    told = (folder / "README.md").read_text()
    assert f"| mean nats |  | {np.exp(card.valid_nats):.4g} | {card.valid_nats:.4f} |" in told
    assert "Not measured" not in told
    assert ("no better than seed" in told) == (card.valid_nats >= card.seed_nats["seed"])


def test_one_meant_for_a_domain_is_measured_there_and_told_if_it_is_no_better(
    copy, workspace, capsys
):
    root = copy().forest_root
    words = ["average", *workspace, f"forest={root}"]
    assert main.main([*words, "weights={bible: 1}", "domain=novels", "average.name=deploy"]) == 0
    card = Card.read(Forest(root).root / "averages/deploy/card.json")
    assert set(card.measured) == {"novels"}
    assert "nats/token on valid of novels: deploy" in capsys.readouterr().err
    assert main.main([*words, "weights={seed: 1}", "average.name=same", "--json"]) == 0
    said = capsys.readouterr()
    assert "warning: same is no better than seed" in said.err
    found = json.loads(said.out)
    assert found["valid_nats"] == found["seed_nats"]["seed"]
    assert set(found["measured"]) == {"bible", "code_python", "speeches"}
    assert (
        "it is no better than seed" in (Forest(root).root / "averages/same/README.md").read_text()
    )
    assert main.main(["show", "average=same", "--json", *workspace, f"forest={root}"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == found["measured"]


def test_one_that_is_not_or_cannot_be_measured_is_made_all_the_same(
    copy, workspace, capsys, tmp_path
):
    root = copy().forest_root
    words = ["average", *workspace, f"forest={root}", "weights={bible: 3, seed: 1}"]
    assert main.main([*words, "average.name=a", "average.measure=false"]) == 0
    said = capsys.readouterr().err
    assert "nats/token" not in said
    assert "weights sum to 4, and are scaled to 1: bible 0.750, seed 0.250" in said
    assert main.main([*words, "average.name=b", f"data.out={tmp_path / 'nowhere'}"]) == 0
    assert "b is not measured: the suite" in capsys.readouterr().err
    for name in "ab":
        folder = Forest(root).root / "averages" / name
        assert Card.read(folder / "card.json").measured == {}
        assert (
            "Not measured when it was made; `btm eval` measures it."
            in (folder / "README.md").read_text()
        )


def test_a_soup_is_tried_in_the_number_type_that_it_is_published_in(copy):
    words = ("average.dtype=bf16", "average.measure=false", "average.experts=[bible,speeches]")
    config = copy("average.method=greedy_soup", "domain=speeches", *words)
    steps.average(config)
    config.average.method, config.domain, config.average.name = "linear", None, "both"
    pair = Card.read(steps.average(config) / "card.json")
    assert len(pair.parents) == 2
    shard = steps.open_suite(config).shard("speeches", "valid")
    scores = score_cache.scores_of(config, Forest(config.forest_root))
    assert scores.read(shard, pair.sha256) is not None  # these very weights were tried
