"""The ledger against torch's own FLOP counter, and its sums over forests against sums by hand."""

import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from btm import steps
from btm.cli.compose import compose
from btm.forest import ledger
from btm.forest.card import Card
from btm.launch import forecast
from btm.models import causal_lm, configs, flops
from btm.report.tables import ledger_rows

VOCABULARY = 2048


def small_model(name, *overrides):
    config = configs.make_config(compose([f"model={name}", *overrides]).model, VOCABULARY, 0)
    return causal_lm.new_model(config, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [128, 512])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("pico", []),
        ("pico", ["model.config.tie_word_embeddings=false"]),
        ("gpt2", []),
        ("gpt_neox", []),
        ("opt", []),
        ("bloom", []),
    ],
)
def test_flops_are_those_that_torch_counts(name, overrides, seq_len):
    model = small_model(name, *overrides)
    model.set_attn_implementation(
        "eager"
    )  # a fused attention is counted with what it computes twice
    ids = torch.zeros((1, seq_len), dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    shape = flops.Shape.of(model)
    counted = forward.get_total_flops() / seq_len
    assert shape.inference_flops(seq_len) == pytest.approx(counted, rel=0.02)
    assert shape.training_flops(seq_len) == pytest.approx(
        counted + backward.get_total_flops() / seq_len, rel=0.02
    )
    assert flops.Shape.of_config(model.config) == shape


def test_embeddings_count_only_as_the_head():
    tied, untied = (
        small_model("pico"),
        small_model("pico", "model.config.tie_word_embeddings=false"),
    )
    assert flops.Shape.of(tied) == flops.Shape.of(untied)
    norms = sum(p.numel() for p in tied.parameters() if p.ndim == 1)
    assert flops.Shape.of(tied).matrix_parameters == tied.num_parameters() - norms


def test_a_head_wider_than_the_model_is_seen():
    model = small_model("pico", "model.config.head_dim=64")
    assert flops.Shape.of(model).attention == 4 * 4 * 64


def card(name, tokens, parents=()):
    made = Card(name, [name], f"sha-{name}", "t", tokens=tokens, flops=tokens * 10.0)
    return ledger.summed(dataclasses.replace(made, ancestors=ledger.lineage(parents)))


def test_each_ancestor_counts_once():
    seed = card("seed", 1000)
    a, b = card("a", 10, [seed]), card("b", 20, [seed])
    c = card("c", 5, [a, b])
    assert (a.total_tokens, a.total_flops) == (1010, 10_100.0)
    assert c.total_tokens == 1035
    assert ledger.training([a, b, c]) == {"tokens": 1035, "flops": 10_350.0}
    assert ledger.training([a, b, c, seed, a]) == ledger.training([c])


def test_two_of_one_name_are_two():
    old, new = card("a", 10), dataclasses.replace(card("a", 7), sha256="other")
    assert ledger.training([old, new])["tokens"] == 17


def test_every_card_of_a_grown_forest_carries_its_cost(grown, forest):
    config, _ = grown
    per_token = flops.Shape.of_config(causal_lm.load_config(forest["seed"].path)).training_flops(64)
    seed, bible, speeches = (forest[name].card for name in ("seed", "bible", "speeches"))
    own = config.trainer.batch_size * config.trainer.seq_len
    assert (seed.total_tokens, bible.total_tokens) == (24 * own, 36 * own)
    ancestors = {spent.name for spent in speeches.ancestors}
    assert ancestors == {"seed", *speeches.parents}
    assert speeches.total_tokens == (24 + 12 * len(ancestors)) * own
    for elm in forest.elms():
        assert elm.card.total_flops == pytest.approx(elm.card.total_tokens * per_token)
    assert "ancestors included" in (
        bible_readme := (forest["bible"].path / "README.md").read_text()
    )
    assert f"{bible.total_tokens:,} tokens" in bible_readme
    averaged = Card.read(forest.root / "averages" / "uniform" / "card.json")
    assert (averaged.tokens, averaged.total_tokens) == (0, 60 * own)
    assert averaged.matrix_parameters == bible.matrix_parameters > 0


def test_ancestors_that_left_the_forest_still_count(copy):
    config = copy("weights={bible: 1}", "trainer.steps=2", "merge.force=true")
    from btm.forest import Forest

    forest = Forest(config.forest_root)
    steps.branch(config, "new", "bible")
    wanted = forest["bible"].card.total_tokens
    forest["bible"].path.rename(forest.root / "gone")
    result = {"steps": 1, "tokens": 100, "flops": 1e6}
    (forest.get_branch("new").path / "trained.json").write_text(json.dumps(result))
    assert steps.merge(config, "new").card.total_tokens == wanted + 100


@pytest.mark.parametrize(("top_k", "run"), [(0, 3), (2, 2), (99, 3)])
def test_an_evaluation_carries_the_cost(copy, forest, top_k, run):
    config = copy(f"ensemble.top_k={top_k}", "eval.domains=[bible]", "eval.name=x")
    result = steps.eval_forest(config)
    costs = result["ledger"]
    members = [elm.card for elm in forest.experts()]
    assert costs["ensemble"]["training"] == ledger.training(members)
    assert costs["ensemble"]["training"]["tokens"] == 60 * 512
    assert costs["ensemble"]["experts_run"] == run
    one = costs["elms"]["bible"]["inference_flops_per_token"]
    assert costs["ensemble"]["inference_flops_per_token"] == run * one
    shape = flops.Shape.of_config(causal_lm.load_config(forest["bible"].path))
    assert one == shape.inference_flops(config.window)
    assert costs["elms"]["bible"]["training"]["tokens"] == forest["bible"].card.total_tokens
    assert [row["experts run"] for row in ledger_rows(result)] == [
        run,
        1,
        1,
        1,
        1,
        1,
    ]  # the average too


def test_the_forecast_counts_as_the_cards_do(grown, workspace, forest, tmp_path):
    again = compose([*workspace, f"forest={tmp_path / 'none'}"])
    rows = {row["job"]: row for row in forecast.forecast(again, again.run.rounds)}
    for name, job in (("seed", "seed"), ("bible", "train-bible")):
        assert rows[job]["flops"] == pytest.approx(forest[name].card.flops)
    assert rows["all"]["flops"] == pytest.approx(
        ledger.training(c.card for c in forest.elms())["flops"]
    )
