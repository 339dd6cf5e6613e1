"""The part of every batch that a volunteer of several takes."""

from dataclasses import replace

import pytest

from btm.commons.bodies import Share, Together, Wanted
from btm.commons.together.plan import Plan
from btm.commons.together.rounds import Progress
from btm.config.training import TrainerConfig
from btm.errors import UserError

SEQ, BATCH, STEPS, ROUNDS = 32, 16, 10, 5
ROUND = STEPS * BATCH * SEQ  # tokens
TRAINER = TrainerConfig(batch_size=BATCH, seq_len=SEQ)


def at(tokens=ROUND, rounds=ROUNDS):
    together = Together(4, tokens, 60.0, 0.7, 0.5)
    wanted = Wanted(rounds * tokens, 1, {"seed": Share(1.0, "a" * 64)}, "a" * 64, together)
    return Progress("law", wanted, course=1, opened=0.0)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25, 1 / 16])
def test_everybody_takes_as_many_steps_as_one_machine_with_a_part_of_its_batch(share):
    plan = Plan.make(at(), "a" * 64, TRAINER, share, read=0)
    assert (plan.steps, plan.batch) == (STEPS, BATCH * share)
    assert (plan.horizon, plan.offset) == (STEPS * ROUNDS, 0)


@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.2, 0.1), (0.76, 0.15, 0.06, 0.03)])
def test_the_parts_come_to_a_round(shares):
    plans = [Plan.make(at(), "a" * 64, TRAINER, share, read=0) for share in shares]
    tokens = sum(plan.steps * plan.batch * SEQ for plan in plans)
    assert tokens == pytest.approx(ROUND, rel=0.05)


def test_less_than_a_sequence_a_step_is_fewer_steps():
    plan = Plan.make(at(), "a" * 64, TRAINER, 1 / 64, read=0)
    assert (plan.batch, plan.steps) == (1, round(STEPS / 4))
    assert Plan.make(at(), "a" * 64, TRAINER, 1e-6, read=0).steps == 1


def test_nobody_reads_a_sequence_twice_when_their_part_changes():
    first = Plan.make(at(), "a" * 64, TRAINER, 0.5, read=0)
    assert first.read_after == STEPS * 8
    second = Plan.make(at(), "b" * 64, TRAINER, 0.2, read=first.read_after)
    assert second.batch == 3 and second.first * second.batch >= first.read_after
    assert second.first * second.batch - first.read_after < second.batch


def test_it_is_read_as_it_was_written(tmp_path):
    plan = Plan.make(at(), "a" * 64, TRAINER, 0.3, read=7)
    plan.write(tmp_path)
    assert Plan.read_from(tmp_path) == plan
    (tmp_path / "begun.json").write_text('{"base": "x"}')
    with pytest.raises(UserError, match="damaged"):
        Plan.read_from(tmp_path)


def test_a_round_of_less_than_a_sequence_is_refused():
    with pytest.raises(UserError, match=r"lower trainer\.seq_len"):
        Plan.make(at(tokens=SEQ - 1), "a" * 64, TRAINER, 1.0, read=0)
    small = replace(TRAINER, batch_size=1000)
    assert Plan.make(at(), "a" * 64, small, 1.0, read=0).batch * SEQ <= ROUND
