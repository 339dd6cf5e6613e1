"""The ensemble token by token against whole forward passes of its experts mixed by the rules of
evaluation.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from interop.models import make_folder

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, generate, posterior
from btm.ensemble.rule import SequenceRule
from btm.ensemble.rules import RULES, rule_of
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm

NAMES = ["bible", "code_python", "speeches"]
BY_SEQUENCE = [name for name, rule in RULES.items() if issubclass(rule, SequenceRule)]
PRIOR = {"bible": 0.2, "code_python": 0.5, "speeches": 0.3}


def text(config, n=100):
    """The first `n` real tokens of a domain that no expert has seen."""
    return [int(token) for token in steps.open_suite(config).shard("novels", "test").tokens[:n]]


def whole(forest, ids, names):
    """log p of every token at every place, one forward pass an expert: (E, T, V)."""
    start = forest[names[0]].load().config.eos_token_id
    inputs = torch.tensor([[start, *ids[:-1]]])
    with torch.inference_mode():
        logits = [forest[name].load()(inputs).logits[0].double() for name in names]
    return np.stack([torch.log_softmax(x, dim=-1).numpy() for x in logits])


@pytest.mark.parametrize("rule", [*BY_SEQUENCE, "gated"])
def test_it_equals_the_mixture_of_whole_passes(grown, forest, rule):
    config, _ = grown
    ids = text(config)
    ensemble = EnsembleConfig(rule=rule, alpha=0.05, beta=0.9)
    mixed = generate.Ensemble.load(forest, PRIOR, ensemble=ensemble)
    logp_ETV = whole(forest, ids, NAMES)
    logp_ET = logp_ETV[:, np.arange(len(ids)), ids]
    log_prior_E = np.log(list(PRIOR.values()))
    if rule == "gated":
        wanted_T, weights_ET = gate.mixed(logp_ET, log_prior_E, gate.DEFAULT, ids)
    else:
        (wanted_T,), weights_EST = rule_of(ensemble).weigh(logp_ET[:, None], log_prior_E)
        weights_ET = weights_EST[:, 0]
    found = [mixed.read(ids[:30])]
    for t in range(30, 60):
        next_V = np.log((weights_ET[:, t, None] * np.exp(logp_ETV[:, t])).sum(axis=0))
        np.testing.assert_allclose(mixed.next_logp(), next_V, atol=1e-5)
        found.append(mixed.read([ids[t]]))
    found.append(mixed.read(ids[60:]))
    np.testing.assert_allclose(np.concatenate(found), wanted_T, atol=1e-5)


def test_next_tokens_are_a_distribution(forest):
    mixed = generate.Ensemble.load(forest)
    assert np.exp(mixed.next_logp()).sum() == pytest.approx(1, abs=1e-6)
    assert mixed.read([]).shape == (0,)


@pytest.mark.parametrize("rule", BY_SEQUENCE)
def test_one_token_at_a_time_is_the_whole_window(rule):
    logp_EST = -np.random.default_rng(0).exponential(2.0, (4, 1, 50))
    log_prior_E = np.log([0.1, 0.2, 0.3, 0.4])
    chosen = rule_of(EnsembleConfig(rule=rule, alpha=0.1, beta=0.9))
    wanted_ST, weights_EST = chosen.weigh(logp_EST, log_prior_E)
    online = chosen.begin(log_prior_E)
    for t in range(50):
        np.testing.assert_allclose(np.exp(online.log_weights), weights_EST[:, 0, t], atol=1e-9)
        assert online.update(logp_EST[:, 0, t], t) == pytest.approx(wanted_ST[0, t], abs=1e-6)


def test_experts_outside_the_top_k_are_neither_loaded_nor_run(copy):
    config = copy()
    forest = Forest(config.forest_root)
    (forest["bible"].path / "model.safetensors").unlink()
    mixed = generate.Ensemble.load(forest, PRIOR, top_k=2)
    assert mixed.names == ["code_python", "speeches"]
    assert len(mixed.models) == 2
    ids = text(config, 20)
    logp_ETV = whole(forest, ids, mixed.names)
    logp_ET = logp_ETV[:, np.arange(20), ids]
    wanted = posterior.mixture(logp_ET, np.log([0.5 / 0.8, 0.3 / 0.8]))
    np.testing.assert_allclose(mixed.read(ids), wanted, atol=1e-5)
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        generate.Ensemble.load(forest, PRIOR)


def test_any_end_of_a_generation_config_ends_a_text(copy):
    config = copy()
    whole = list(generate.Ensemble.load(Forest(config.forest_root), PRIOR).generate(8, 0.0))
    folder = Forest(config.forest_root)["bible"].path
    ends = [whole[4], whole[5]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    found = list(generate.Ensemble.load(Forest(config.forest_root), PRIOR).generate(8, 0.0))
    assert found == whole[: min(whole.index(end) for end in ends)]
    assert len(found) < 8


def test_a_top_k_of_equals_is_refused():
    with pytest.raises(UserError, match="all weigh the same"):
        generate.keep({"a": 1.0, "b": 1.0}, 1)
    assert generate.keep({"a": 1.0, "b": 1.0}, 0) == {"a": 0.5, "b": 0.5}
    assert generate.keep({"a": 1.0, "b": 0.0}, 0) == {"a": 1.0}
    assert generate.keep({"a": 1.0, "b": 3.0, "c": 2.0}, 2) == pytest.approx({"b": 0.6, "c": 0.4})


def test_where_positions_end_it_goes_on_from_the_later_half(forest):
    model = forest["bible"].load()
    model.config.max_position_embeddings = 16
    reader = generate._Reader(model)
    ids = list(range(40))
    found = np.concatenate([reader.read(ids[:10]), reader.read(ids[10:])])
    assert found.shape[0] == 40
    with torch.inference_mode():
        for first, last in ((0, 16), (8, 24), (16, 32), (24, 40)):
            wanted = torch.log_softmax(
                model(torch.tensor([ids[first:last]])).logits[0], dim=-1
            ).numpy()
            fresh = 0 if first == 0 else 8
            np.testing.assert_allclose(found[first + fresh : last], wanted[fresh:], atol=1e-5)


def test_generation_depends_on_the_seed_alone(forest):
    def go_on(seed, temperature):
        mixed = generate.Ensemble.load(forest, PRIOR, top_k=2)
        mixed.read([40, 41, 42])
        return list(mixed.generate(8, temperature, seed))

    assert go_on(1, 1.0) == go_on(1, 1.0)
    assert go_on(1, 0.0) == go_on(2, 0.0)
    assert go_on(1, 1.0) != go_on(2, 1.0)


def test_the_command(capsys, copy, workspace, tmp_path):
    words = [*workspace, f"forest={tmp_path / 'forest'}", "generate.tokens=5", "domain=bible"]
    ask = [
        "generate",
        *words,
        "prompt=In the beginning, 'God' = {x: [1]}",
        "ensemble.top_k=1",
        "--json",
    ]
    copy()
    forest = Forest(tmp_path / "forest")
    for name in ("code_python", "speeches"):
        (forest[name].path / "model.safetensors").unlink()
    assert main.main(ask) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["prompt"] == "In the beginning, 'God' = {x: [1]}"
    assert made["experts"] == {"bible": 1.0}
    assert 0 <= made["tokens"] <= 5
    assert main.main([*ask[:-1], "--dry-run"]) == 0
    assert "1 of 3 experts under the token prior of bible" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main.main(["generate", *words]) == 2
    assert "give prompt=" in capsys.readouterr().err
    assert main.main(["generate", "--help"]) == 0
    assert "btm generate experiment=demo" in capsys.readouterr().out
    assert compose(["prompt=a, b"]).prompt == "a, b"


@pytest.mark.slow
def test_an_average_writes_alone_and_beside_its_own_experts(copy, workspace, tmp_path, capsys):
    forest = Forest(copy().forest_root)
    words = [
        "generate",
        *workspace,
        f"forest={forest.root}",
        "prompt=In the beginning",
        "generate.tokens=4",
    ]
    words += ["--json", "generate.temperature=0"]

    def written(*more):
        assert main.main([*words, *more]) == 0
        return json.loads(capsys.readouterr().out)

    assert written("ensemble.experts=[uniform]")["experts"] == {"uniform": 1.0}
    both = written("ensemble.experts=[uniform,bible]", "domain=bible")
    assert set(both["experts"]) <= {"uniform", "bible"}
    assert main.main([*words[:-2], "ensemble.experts=[uniform,bible]", "--dry-run"]) == 0
    assert "2 of 2 models under a uniform prior" in " ".join(capsys.readouterr().out.split())
    folder = shutil.copytree(forest.root / "averages/uniform", tmp_path / "deployed")
    alone = written(f"ensemble.experts=[{folder}]", "domain=bible")
    assert alone["experts"] == {str(folder): 1.0}
    assert alone["text"] == written("ensemble.experts=[uniform]")["text"]
    assert main.main([*words, "ensemble.experts=[unifrom]"]) == 2
    assert "did you mean 'uniform'" in capsys.readouterr().err


def test_an_average_is_a_member_by_name(grown, forest):
    ids = text(grown[0], 20)
    mixed = generate.Ensemble.load(forest, {"uniform": 1.0})
    start = forest["bible"].load().config.eos_token_id
    with torch.inference_mode():
        model = causal_lm.load_model(forest.root / "averages/uniform")
        logits = model(torch.tensor([[start, *ids[:-1]]])).logits[0].double()
    wanted = torch.log_softmax(logits, dim=-1).numpy()[np.arange(20), ids]
    np.testing.assert_allclose(mixed.read(ids), wanted, atol=1e-5)


def test_a_folder_with_more_embeddings_and_no_eos_of_its_own_is_a_member(grown, forest, tmp_path):
    padded = make_folder(tmp_path / "padded", forest.tokenizer, "gpt2", vocab_size=600)
    config = json.loads((padded / "config.json").read_text()) | {"eos_token_id": None}
    (padded / "config.json").write_text(json.dumps(config))
    ids = text(grown[0], 20)
    prior = {str(padded): 0.5, "bible": 0.5}
    mixed = generate.Ensemble.load(forest, prior, ensemble=EnsembleConfig(rule="simple"))
    start = forest["bible"].load().config.eos_token_id
    parts = []
    for folder in (padded, forest["bible"].path):
        with torch.inference_mode():
            logits = causal_lm.load_model(folder, dtype=torch.float32)(
                torch.tensor([[start, *ids[:-1]]])
            ).logits
        parts.append(torch.log_softmax(logits[0].double(), dim=-1).numpy()[np.arange(20), ids])
    np.testing.assert_allclose(mixed.read(ids), np.logaddexp(*parts) - np.log(2), atol=1e-5)
    assert len(mixed.next_logp()) == forest["bible"].load().config.vocab_size


def test_a_folder_that_an_import_would_refuse_writes_nothing(forest, tmp_path):
    small = make_folder(tmp_path / "small", forest.tokenizer, "gpt2", vocab_size=16)
    with pytest.raises(UserError, match="embeddings for 16 tokens"):
        generate.Ensemble.load(forest, {str(small): 1.0})
    with pytest.raises(UserError, match=r"no model 'unifrom' .*did you mean 'uniform'"):
        generate.Ensemble.load(forest, {"unifrom": 1.0})


def test_where_an_elm_is_wanted_an_average_is_told_apart(grown, workspace, capsys):
    for words in (
        ["eval", "ensemble.experts=[uniform]"],
        ["average", "average.experts=[uniform,bible]"],
    ):
        assert main.main([*words[:1], *workspace, *words[1:]]) == 2
        assert "'uniform' is an average of" in capsys.readouterr().err
