"""What is grown: the same tokens for every row, whatever is varied."""

import pytest

from btm import paper
from btm.cli.compose import compose
from btm.errors import UserError
from btm.paper.forecast import training_tokens
from btm.paper.studies import ONE_MODEL, root, steps, studies

DOMAINS = [f"d{number}" for number in range(8)]


def tokens_behind(study, by_name):
    """Training tokens of a study and of what it begins with."""
    own = training_tokens(study)
    config = study.config
    if study.kind in ("demix", "random_split"):
        own += config.seed.steps * config.trainer.batch_size * config.trainer.seq_len
    return own


def test_every_row_of_a_table_has_seen_as_many_tokens():
    config = compose(["size=small"])
    found = studies(config, DOMAINS)
    by_name = {study.name: study for study in found}
    wanted = config.paper.steps * config.trainer.batch_size * config.trainer.seq_len
    for study in found:
        if study.kind not in ("rounds", ONE_MODEL):  # what these train comes on top, and is said
            assert tokens_behind(study, by_name) == wanted, study.name
    forest = by_name["forest-0"].config
    assert forest.seed.steps + 8 * forest.trainer.steps == config.paper.steps


def test_a_study_stands_after_those_it_needs():
    found = studies(compose(["size=small"]), DOMAINS)
    names = [study.name for study in found]
    assert len(set(names)) == len(names)
    for number, study in enumerate(found):
        assert set(study.needs) <= set(names[:number]), study.name


def test_seeds_differ_and_nothing_else():
    found = {study.name: study for study in studies(compose(["size=small"]), DOMAINS)}
    one, other = found["forest-0"].config, found["forest-2"].config
    assert (one.trainer.seed, other.trainer.seed) == (0, 2)
    other.trainer.seed, other.forest = 0, one.forest
    assert one == other


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_the_steps_of_seed_and_experts_are_the_same_in_sum(fraction):
    config = compose(["size=small"])
    seed, each = steps(config, 8, fraction)
    assert seed + 8 * each == config.paper.steps
    assert seed == pytest.approx(fraction * config.paper.steps, abs=8)


def test_too_few_steps_are_refused():
    with pytest.raises(UserError, match="no step is left"):
        steps(compose(["size=small", "paper.steps=4"]), 8, 0.5)


def test_a_size_is_needed_and_added_domains_are_new():
    with pytest.raises(UserError, match="which size"):
        paper.plan(compose([]))
    with pytest.raises(UserError, match=r"none is trained on.* bible, code_python"):
        paper.plan(compose(["size=smoke", "eval.domains=[novels]"]))
    with pytest.raises(UserError, match="'bible' is a training domain already"):
        paper.plan(compose(["size=smoke", "paper.added=[bible]"]))


def test_a_plan_sums_up():
    config = compose(["size=smoke"])
    rows = paper.plan(config)
    assert rows[-1]["tokens"] == sum(row["tokens"] for row in rows[:-1])
    assert rows[-1]["seconds here"] > 0
    assert not root(config).exists()
