"""Examples in rows to train on and alone to score, and a suite of them prepared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import questions

from btm.data.batches import Batches, windows
from btm.data.prepare import plan, prepare
from btm.data.prompted.rows import Rows
from btm.data.shards import Shard
from btm.data.table import table
from btm.data.tokenizer import load_tokenizer
from btm.errors import UserError

L = 128


@pytest.fixture
def shard(examples):
    return examples.shard("speeches", "train")


def documents(shard):
    """Ids, mask and weight of each example."""
    ends = np.cumsum(shard.documents[:, 0])[:-1]
    ids, mask = np.split(np.asarray(shard.tokens), ends), np.split(np.asarray(shard.mask), ends)
    return list(zip(ids, mask, shard.weights, strict=True))


def test_the_shard_has_every_example_with_its_mask_and_weight(examples, shard):
    facts = shard.meta["splits"]["train"]
    found = documents(shard)
    assert facts["predicted"] == sum(int(mask.sum()) for _, mask, _ in found) > 0
    assert facts["tokens"] == sum(len(ids) for ids, _, _ in found)
    assert all(ids[-1] == shard.eos and mask[0] == 0 and mask[-1] == 1 for ids, mask, _ in found)
    assert {float(weight) for _, _, weight in found} == {1.0, 0.75, 0.25}
    tokenizer = load_tokenizer(examples.tokenizer)
    asked = {tokenizer.decode(ids[mask == 0]) for ids, mask, weight in found if weight == 1}
    assert {text for text in asked if text.startswith("Go on: ")} <= {
        row["prompt"] for row in questions.rows() if "completion" in row
    }
    assert load_tokenizer(examples.tokenizer).chat_template  # of btm, so that chats can be served
    (row,) = table(examples)
    assert row["predicted"] < row["train_tokens"] and row["truncated"] == 0


def test_a_row_holds_whole_examples_apart(shard):
    rows = Rows(shard, L, packed=True)
    found = documents(shard)
    assert len(rows) < len(found) / 2
    seen = []
    for number in range(len(rows)):
        row = rows.row(number)
        begins = np.flatnonzero(row.positions == 0)
        for a, b in zip(begins, [*begins[1:], L], strict=True):
            assert (row.positions[a:b] == np.arange(b - a)).all()
            if row.weights[a:b].any():
                seen.append((row.ids[a:b].tolist(), row.weights[a:b].tolist()))
    wanted = [(ids.tolist(), [*(mask[1:] * weight).tolist(), 0.0]) for ids, mask, weight in found]
    assert sorted(seen) == sorted(wanted)
    assert rows.read_R.sum() == shard.n_tokens and rows.read_R.max() <= L
    assert rows.predicted_R.sum() == shard.meta["splits"]["train"]["predicted"]
    assert rows.read_R.mean() > 0.9 * L  # few tokens fill up rows


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_reads_each_example_once_and_counts_it(shard, packed):
    batches = Batches([shard], L, 4, seed=1)
    if not packed:
        batches.unpack()
    n = len(Rows(shard, L, packed=packed))
    steps, over = n // 4, n % 4
    tokens = np.concatenate([batches.batch(step).flatten() for step in range(steps)])
    if not over:
        assert len(tokens[tokens != shard.eos]) == sum(shard.tokens != shard.eos)
    for step in (0, steps // 2, steps):
        marks, batch = batches.marks(step), batches.batch(step)
        assert marks.weights.shape == (4, batch.shape[1] - 1)
        assert marks.weights.sum() == pytest.approx(1, abs=1e-6)
        assert (marks.positions is not None) == packed
        halves = [marks.share(rank, 2).weights for rank in range(2)]
        assert np.allclose(np.concatenate(halves) / 2, marks.weights)
        predicted = batches.tokens(step + 1) - batches.tokens(step)
        assert predicted == np.count_nonzero(marks.weights)
        assert predicted < batches.read(step + 1) - batches.read(step) <= marks.weights.size
    assert batches.epochs(steps)["speeches"] == pytest.approx(1, abs=0.2)


def test_text_and_examples_share_a_batch(shard, suite):
    batches = Batches([suite.shard("code", "train"), shard], L, 4, seed=1)
    marks, batch = batches.marks(0), batches.batch(0)
    assert batch.shape == (4, L + 1)
    assert (marks.weights[::2] > 0).all() and (marks.positions[::2] == np.arange(L)).all()
    assert batches.tokens(1) == np.count_nonzero(marks.weights)
    assert Batches([suite.shard("code", "train")], L, 4, seed=1).marks(0) is None


def test_each_example_is_scored_alone(shard):
    text, found = windows(shard, L), documents(shard)
    assert text.n_windows == len(found) and text.n_tokens == shard.n_tokens
    assert text.n_predicted == shard.meta["splits"]["train"]["predicted"]
    inputs, targets, off = text.inputs(2, 5), text.targets(2, 5), text.uncounted(2, 5)
    for row, (ids, mask, _) in enumerate(found[2:5]):
        assert inputs[row, : len(ids) - 1].tolist() == ids[:-1].tolist()
        assert targets[row, : len(ids) - 1].tolist() == ids[1:].tolist()
        assert off[row, : len(ids) - 1].tolist() == (mask[1:] == 0).tolist()
        assert off[row, len(ids) - 1 :].all()
    flat = text.new(targets.astype(np.float32), 2)
    wanted = [np.concatenate([[0], ids[1:]]) for ids, _, _ in found[2:5]]
    assert flat.tolist() == np.concatenate(wanted).tolist()
    few = windows(shard, L, max_tokens=200)
    assert few.n_tokens <= 200 and few.n_windows == np.sum(
        np.cumsum(shard.documents[:, 0]) <= few.n_tokens
    )


def test_longer_examples_than_the_sequence_are_refused(shard):
    with pytest.raises(UserError, match=r"has an example of \d+ tokens; trainer\.seq_len=16"):
        Batches([shard], 16, 4, seed=1)
    with pytest.raises(UserError, match=r"score\.window=16"):
        windows(shard, 16)


def test_what_is_cut_is_counted_and_told(examples_config):
    said = []
    config = replace(examples_config, name="cut", max_tokens=30, truncate="right")
    suite = prepare(config, said.append)
    facts = [suite.metas["speeches"]["splits"][split] for split in ("train", "valid", "test")]
    shortened, lost = (sum(each[key] for each in facts) for key in ("truncated", "unanswered"))
    assert shortened and lost
    assert any(
        line.startswith(f"speeches: {shortened:,} examples longer than 30 tokens")
        and f"{lost:,} longer than 30 tokens" in line
        for line in said
    )
    shard = suite.shard("speeches", "train")
    assert len(shard.digests) == shard.n_documents
    assert {each.what for each in plan(config)} == {"nothing: unchanged"}
    (planned,) = plan(replace(config, loss_on="all"))
    assert planned.what.endswith("(changed: loss_on)")
    with pytest.raises(UserError, match="no example of its train"):
        prepare(replace(config, name="none", max_tokens=3))


def test_completions_of_a_prompt_stay_together_and_near_copies_can_be_dropped(examples_config):
    first, *rest = questions.rows()
    near = {"prompt": first["prompt"], "completion": f"{first['completion']} indeed"}
    root = examples_config.root + "-near"
    home = Path(root) / "speeches"
    questions.write(home / "test.jsonl", [first])
    questions.write(home / "valid.jsonl", rest[:1])
    questions.write(home / "train.jsonl", [near, *rest[1:]])
    config = replace(examples_config, root=root, name="near", near_duplicates="drop")
    suite = prepare(config)
    shard = suite.shard("speeches", "train")
    facts = json.loads((suite.path / "speeches" / "meta.json").read_text())["splits"]["train"]
    assert facts["near_duplicates_dropped"] == 1
    assert facts["predicted"] == np.count_nonzero(shard.mask)
    assert Shard.open(shard.folder, "train").weights.shape == (shard.n_documents,)
    assert len(set(np.asarray(shard.digests).tolist())) < shard.n_documents  # of several answers
