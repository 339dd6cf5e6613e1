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


def digests(words):
    """The sha256 of each ELM's weights by its name."""
    return {elm.name: elm.card.sha256 for elm in Forest(compose(words).forest_root).elms()}


@pytest.mark.slow
@pytest.mark.parametrize(("carry", "lr"), [("fresh", "null"), ("auto", "0.002")])
def test_verb_by_verb_gives_the_bytes_of_run(bare, capsys, carry, lr):
    """Two rounds, steps of the seed that follow from those of experts, a peak of its own."""
    rounds = [["bible", "code_python"], ["speeches"]]
    chosen = ["run.rounds=[[bible,code_python],[speeches]]", "seed.lr=0.004"]
    chosen += [f"trainer.carry={carry}", f"trainer.lr={lr}"]
    whole, parts = [*bare("whole"), *chosen], [*bare("parts"), *chosen]
    steps.run(compose([*whole, "eval.domains=[bible]"]))
    assert main.main(["seed", *parts]) == 0
    for number, domains in enumerate(rounds):
        for verb in ("branch", "train", "merge"):
            for domain in domains:
                parents = ["branch=copy"] if verb == "branch" and not number else []
                assert main.main([verb, *parts, *parents, f"expert={domain}"]) == 0, (
                    capsys.readouterr().err
                )
    assert digests(whole) == digests(parts)
    assert len(digests(whole)) == 4
    seed, bible = (Forest(compose(parts).forest_root)[name].card for name in ("seed", "bible"))
    assert (seed.steps, seed.lr, seed.schedule["horizon"]) == (
        6,
        0.004,
        9 if carry == "auto" else 6,
    )
    if carry == "auto":
        assert bible.schedule == seed.schedule | {"offset": 6}
    capsys.readouterr()


@pytest.mark.slow
def test_later_words_on_rate_and_length_do_not_bend_a_continued_schedule(bare, capsys):
    whole, parts = ([*bare(name), "trainer.carry=auto"] for name in ("whole", "parts"))
    steps.run(compose([*whole, "run.rounds=[[bible]]", "seed.lr=0.004", "eval.domains=[bible]"]))
    seed = ["run.rounds=[[bible]]", "seed.lr=0.004"]
    assert main.main(["seed", *parts, *seed]) == 0
    words = [*parts, "expert=bible", "trainer.lr=0.001", "trainer.final_lr=0.5"]
    for verb in (["branch", "branch=copy"], ["train"], ["merge"]):
        assert main.main([verb[0], *words, *verb[1:]]) == 0
    assert digests(whole) == digests(parts)
    (_, note) = Forest(compose(parts).forest_root)["bible"].card.notes
    assert note.startswith("without effect") and "trainer.lr=0.001 (peak 0.004)" in note
    capsys.readouterr()


@pytest.mark.slow
def test_growing_a_domain_later_gives_the_bytes_of_a_second_round(bare, capsys):
    words = ["trainer.carry=auto", "eval.domains=[bible,speeches]"]
    whole = [*bare("whole"), *words, "run.rounds=[[bible,code_python],[speeches]]"]
    parts = [*bare("parts"), *words]  # the first round alone
    steps.run(compose(whole))
    steps.run(compose(parts))
    assert main.main(["grow", *parts, "domain=speeches"]) == 0, capsys.readouterr().err
    assert digests(whole) == digests(parts)
    assert "speeches" in digests(parts)
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
