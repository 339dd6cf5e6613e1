from dataclasses import replace

import numpy as np
import pytest

from btm.cli import main
from btm.data.batches import Batches
from btm.data.domains import find
from btm.data.prepare import prepare
from btm.data.sampling import Turns, quotas, shares, training_texts
from btm.data.splits import survey
from btm.data.tokenizer import read_origin
from btm.errors import UserError


def test_shares_are_powers_of_the_sizes():
    assert np.allclose(shares([1, 16, 81], 0.25), [1 / 6, 2 / 6, 3 / 6])
    assert np.allclose(shares([3, 5], 1), [3 / 8, 5 / 8])
    assert np.allclose(shares([3, 5], 0), [1 / 2, 1 / 2])
    assert np.isfinite(shares([10**15, 1], 1)).all()


def test_quotas_take_no_more_than_there_is_of_all():
    sizes = {"large": 80_000, "small": 5_000}
    assert quotas(sizes, 10**9, 1) == sizes
    assert quotas(sizes, 10**9, 0) == {"large": 42_500, "small": 42_500}
    assert quotas(sizes, 8_500, 1) == {"large": 8_000, "small": 500}
    assert quotas(sizes, 20_000) == {"large": 15_000, "small": 5_000}


def test_a_small_domain_is_read_several_times(tmp_path, verses, code, config, jsonl):
    jsonl(tmp_path / "few" / "small.jsonl", verses[:8])
    jsonl(tmp_path / "few" / "large.jsonl", code)
    surveys = [survey(source, config) for source in find(tmp_path / "few")]
    train = {
        seen.source.domain: [t for s, t in seen.documents("text") if s == "train"]
        for seen in surveys
    }
    size = {name: sum(len(t.encode()) for t in texts) for name, texts in train.items()}
    budget = 6 * size["small"]
    texts = list(training_texts(surveys, "text", budget, alpha=0))
    counts = {texts.count(t) for t in train["small"]}
    assert counts == {3}
    read = sum(len(t.encode()) for t in texts if t in train["large"])
    longest = max(len(t.encode()) for t in train["large"])
    assert abs(read - budget / 2) < longest


@pytest.mark.parametrize("alpha", [None, 0.3, 1.0])
def test_a_count_is_the_count_of_places(alpha):
    turns = Turns([700, 40_000, 90], alpha)
    found = [turns.place(g) for g in range(150_000)]
    numbers = {shard: [n for s, n in found if s == shard] for shard in range(3)}
    # Each shard is read in the order of its own sequences, none left out.
    assert all(each == list(range(len(each))) for each in numbers.values())
    for steps in (0, 1, 5, 65_535, 65_536, 65_537, 150_000):
        assert turns.count(steps) == [
            sum(s == shard for s, _ in found[:steps]) for shard in range(3)
        ]


def test_shards_take_turns_where_nothing_else_is_asked():
    turns = Turns([700, 40_000, 90])
    assert [turns.place(g) for g in range(7)] == [
        *((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)),
    ]
    assert turns.parts(10) == [10 / 3] * 3


def test_a_mix_is_near_its_shares_from_early_on():
    sizes = [12_000, 300_000, 8_000_000, 8_000_000]
    wanted, turns = shares(sizes, 0.3), Turns(sizes, 0.3)
    for steps in (100, 1_000, 65_536):
        assert np.allclose(np.array(turns.count(steps)) / steps, wanted, atol=2 / steps + 2e-4)


def test_batches_are_mixed_by_the_power_and_epochs_say_so(suite):
    shards = [suite.shard("code", "train"), suite.shard("verses", "train")]
    batches = Batches(shards, 32, 4, seed=0, sampling=1.0)
    whole = sum(shard.n_tokens for shard in shards)
    steps = 4_096
    counts, epochs = batches.counts(steps), batches.epochs(steps)
    assert np.allclose(
        np.array(counts) / (4 * steps), [s.n_tokens / whole for s in shards], atol=1e-3
    )
    # In proportion to their text, all are read equally often.
    assert epochs["code"] == pytest.approx(epochs["verses"], rel=1e-2)
    again = Batches(shards, 32, 4, seed=0, sampling=1.0)
    assert np.array_equal(again.batch(77), batches.batch(77))
    assert not np.array_equal(Batches(shards, 32, 4, seed=0).batch(77), batches.batch(77))


def test_a_suite_keeps_the_power_that_its_tokenizer_was_trained_with(config):
    sampled = replace(config, sampling=0.3)
    folder = prepare(sampled).path
    assert read_origin(folder / "tokenizer")["trained"]["sampling"] == 0.3
    with pytest.raises(UserError, match=r"trained with data\.sampling=0\.3, not null"):
        prepare(config)
    assert prepare(sampled).path == folder


def test_a_suite_keeps_the_words_of_its_tokenizer(config):
    chosen = replace(config, words="bloom")
    before = prepare(chosen).tokenizer_sha256
    with pytest.raises(UserError, match=r"trained with data\.words=bloom, not gpt2"):
        prepare(config)
    assert prepare(chosen).tokenizer_sha256 == before


def test_a_power_without_effect_costs_a_line(capsys):
    for words, said in (
        (["data.sampling=2"], "data.sampling=2.0: wanted [0, 1], or null"),
        (["data.sampling=0.3", "data.tokenizer=x"], "data.sampling=0.3: has no effect beside"),
        (["data.words=bert"], "data.words='bert': choose one of"),
        (["data.words=bloom", "data.tokenizer=x"], "data.words=bloom: has no effect beside"),
        (["seed.sampling=-1"], "seed.sampling=-1.0: wanted [0, 1], or null"),
        (["seed.sampling=0.3", "seed.from=x"], "has no effect with seed.from"),
        (["seed.sampling=0.3", "seed.steps=0"], "has no effect with seed.steps=0"),
    ):
        assert main.main(["seed", "experiment=smoke", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
