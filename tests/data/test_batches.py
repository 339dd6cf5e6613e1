from collections import Counter

import numpy as np
import pytest

from btm.data.batches import Batches, windows
from btm.errors import UserError

L = 32


@pytest.fixture
def shards(suite):
    return [suite.shard("code", "train"), suite.shard("verses", "train")]


def starts(shard):
    """Where each window of L + 1 tokens stands in the shard."""
    tokens = np.asarray(shard.tokens)
    found = {}
    for i in range(len(tokens) - L):
        found.setdefault(tokens[i : i + L + 1].tobytes(), []).append(i)
    return found


def test_a_batch_is_a_pure_function_of_seed_and_step(shards):
    one, other = Batches(shards, L, 6, seed=3), Batches(shards, L, 6, seed=3)
    forward = [one.batch(step) for step in range(400)]
    assert all(np.array_equal(other.batch(step), forward[step]) for step in reversed(range(400)))
    assert not np.array_equal(Batches(shards, L, 6, seed=4).batch(0), forward[0])
    assert forward[0].shape == (6, L + 1) and forward[0].dtype == np.int64


def test_samples_do_not_depend_on_the_batch_size(shards):
    wide = np.concatenate([Batches(shards, L, 12, seed=0).batch(step) for step in range(5)])
    narrow = np.concatenate([Batches(shards, L, 5, seed=0).batch(step) for step in range(12)])
    assert np.array_equal(wide, narrow)


def test_shards_take_turns(shards):
    maps = [starts(shard) for shard in shards]
    samples = np.concatenate(
        [Batches(shards, L, 3, seed=0).batch(step) for step in range(40)]
    ).astype(np.uint16)
    assert all(sample.tobytes() in maps[g % 2] for g, sample in enumerate(samples))


def test_an_epoch_visits_each_window_once_at_an_offset_of_its_own(shards):
    shard = shards[1]
    n = (shard.n_tokens - L) // L
    batches, where = Batches([shard], L, n, seed=0), starts(shard)
    offsets, orders = [], []
    for epoch in range(3):
        found = [where[sample.tobytes()] for sample in batches.batch(epoch).astype(np.uint16)]
        assert all(len(places) == 1 for places in found), (
            "the text repeats itself: choose a longer L"
        )
        at = [places[0] for places in found]
        assert sorted(at) == list(range(min(at), min(at) + n * L, L))
        assert min(at) < L
        offsets.append(min(at))
        orders.append(at)
    assert len(set(offsets)) > 1
    assert orders[0] != sorted(orders[0])


def test_an_expert_does_not_read_again_what_the_seed_phase_has_just_read(shards):
    n = 20

    def read(order, some):
        batches = Batches(some, L, n, seed=0, order=order)
        return {sample.tobytes() for sample in batches.batch(0)}

    alone, again = read("seed", shards[:1]), read("verses", shards[:1])
    assert read("seed", shards[:1]) == alone
    assert len(alone & again) < n / 4
    # Neither does it matter where in a mix a domain stands.
    mixed, turned = read("seed", shards), read("seed", shards[::-1])
    assert mixed == turned and len(mixed & alone) == n / 2


@pytest.mark.parametrize("spare", [0, 1, L - 1, L, L + 1])
def test_the_shortest_shards_serve(suite, spare):
    shard = suite.shard("verses", "test")
    length = shard.n_tokens - 1 - spare
    batches = Batches([shard], length, 4, seed=0)
    assert batches.batch(7).shape == (4, length + 1)


def test_a_shard_that_is_too_short_is_named(suite):
    shard = suite.shard("verses", "test")
    with pytest.raises(UserError, match=r"verses: test has .* tokens; trainer.seq_len=.* needs"):
        Batches([shard], shard.n_tokens, 1, seed=0)
    with pytest.raises(UserError, match="no shard"):
        Batches([], L, 1, seed=0)


@pytest.mark.parametrize("window", [2, 7, 64, 10_000])
def test_every_token_is_scored_once_after_the_one_before_it(suite, window):
    shard = suite.shard("verses", "valid")
    whole = windows(shard, window)
    assert (whole.n_tokens, whole.n_bytes) == (shard.n_tokens, shard.n_bytes)
    targets, inputs = whole.targets(0, whole.n_windows), whole.inputs(0, whole.n_windows)
    assert (
        targets.shape == inputs.shape == (whole.n_windows, window)
        and targets.dtype == inputs.dtype == np.int64
    )
    stream = np.concatenate([[shard.eos], shard.tokens])
    assert np.array_equal(targets.ravel()[: whole.n_tokens], stream[1:])
    assert np.array_equal(inputs.ravel()[: whole.n_tokens], stream[:-1])
    assert set(targets.ravel()[whole.n_tokens :].tolist()) <= {shard.eos}
    assert whole.n_windows * window - whole.n_tokens < window


def test_windows_can_be_read_in_pieces(suite):
    some = windows(suite.shard("verses", "valid"), 16, max_tokens=1000)
    assert some.n_tokens == suite.shard("verses", "valid").head(1000)[0]
    for read in (some.inputs, some.targets):
        pieces = [read(i, min(i + 5, some.n_windows)) for i in range(0, some.n_windows, 5)]
        assert np.array_equal(np.concatenate(pieces), read(0, some.n_windows))


def test_the_head_of_a_shard_has_no_token_of_the_rest(suite):
    shard = suite.shard("verses", "train")
    some = windows(shard, 50, max_tokens=1)
    tail = some.targets(0, some.n_windows).ravel()[some.n_tokens :]
    assert set(tail.tolist()) <= {shard.eos}
    assert Counter(some.targets(0, some.n_windows).ravel().tolist())[shard.eos] == 1 + len(tail)
