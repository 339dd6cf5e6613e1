"""A cycle under the defaults: how long its seed phase is, and that the verbs one by one give what
`run` gives.
"""

import json

import pytest

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.forest import Forest
from btm.launch.forecast import too_few_tokens


@pytest.fixture
def bare(grown, workspace, tmp_path):
    """A function from a name to the words of a forest without a rate, schedule, carry or seed
    steps.
    """
    return lambda name: [
        *workspace,
        f"forest={tmp_path / name}",
        "run.rounds=[[bible,code_python]]",
        "trainer.lr=null",
        f"trainer.carry={compose([]).trainer.carry}",
        "trainer.steps=3",
        "seed.steps=null",
        "run.average=false",
    ]


def test_experts_begin_a_schedule_of_their_own():
    trainer = compose([]).trainer
    assert (trainer.lr, trainer.carry, trainer.decay) == (None, "fresh", "cosine")


def test_the_seed_phase_is_half_of_the_training(bare):
    config = compose(bare("forest"))
    assert (
        config.seed_steps(["bible", "code_python", "speeches"]) == 6
    )  # the first round has two experts
    config.run.rounds = []
    assert config.seed_steps(["bible", "code_python", "speeches"]) == 9
    config.seed.steps = 0
    assert config.seed_steps(["bible"]) == 0


@pytest.mark.slow
def test_verb_by_verb_gives_the_bytes_of_run(bare, capsys):
    steps.run(compose(bare("whole")))
    words = bare("parts")
    assert main.main(["seed", *words]) == 0
    for verb in ("branch", "train", "merge"):
        for domain in ("bible", "code_python"):
            parents = ["branch=copy"] if verb == "branch" else []
            assert main.main([verb, *words, *parents, f"expert={domain}"]) == 0, (
                capsys.readouterr().err
            )
    whole, parts = (Forest(compose(bare(name)).forest_root) for name in ("whole", "parts"))
    assert {e.name: e.card.sha256 for e in whole.elms()} == {
        e.name: e.card.sha256 for e in parts.elms()
    }
    assert whole["seed"].card.steps == 6
    capsys.readouterr()


def test_a_cycle_that_is_planned_says_the_steps_it_will_do(bare, capsys):
    assert main.main(["run", *bare("planned"), "--dry-run", "--json"]) == 0
    rows = {row["job"]: row["what"] for row in json.loads(capsys.readouterr().out)}
    assert rows["seed"] == "train 6 steps"
    assert "one dense model is likely better" in rows["note"]


@pytest.mark.parametrize(
    ("steps", "seed", "said"),
    [(400, None, ["seed.steps=2400", "half"]), (400, 2400, []), (300, 900, ["half"])],
)
def test_few_steps_are_told_what_did_better(bare, steps, seed, said):
    given = [f"trainer.steps={steps}", *([f"seed.steps={seed}"] if seed else [])]
    config = compose([*bare("few"), "trainer.batch_size=64", *given])
    advice = too_few_tokens(config)
    assert all(words in advice for words in said)
    assert bool(advice) == bool(said)
    assert "seed phase" in advice or "seed.steps" not in " ".join(said)
