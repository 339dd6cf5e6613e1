"""Averages on disk: published whole or not at all, measured in a folder that is deleted."""

import json
from dataclasses import replace

import pytest

from btm.errors import UserError
from btm.forest import Forest, publish
from btm.forest.card import Card
from btm.models import weights
from btm.models.average import Settings


@pytest.fixture
def forest(copy):
    return Forest(copy().forest_root)


def test_a_name_stays_within_the_folder_of_averages(forest):
    with pytest.raises(UserError, match=r"average\.name"):
        publish.average(forest, "../deploy", {"bible": 1.0})


def test_the_same_average_is_published_once_and_another_replaces_it(forest):
    folder = publish.average(forest, "deploy", {"bible": 1.0, "seed": 1.0})
    file = forest.paths.average("deploy").card
    assert folder == file.parent and Card.read(file).sha256 == weights.sha256(folder)
    before = file.stat().st_ino
    publish.average(forest, "deploy", {"bible": 0.5, "seed": 0.5})
    assert file.stat().st_ino != before  # other weights were given, though the shares are the same
    before = file.stat().st_ino
    publish.average(forest, "deploy", {"bible": 0.5, "seed": 0.5})
    assert file.stat().st_ino == before


def test_an_average_that_fails_leaves_nothing(forest):
    def refuse(folder, card):
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        publish.average(forest, "never", {"bible": 1.0}, measure=refuse)
    assert not forest.paths.average("never").path.exists()


def test_a_trial_is_deleted_also_after_an_error(forest):
    with (
        pytest.raises(UserError, match="no"),
        publish.trial(forest, {"bible": 1.0}, Settings()) as folder,
    ):
        assert weights.sha256(folder) == forest["bible"].card.sha256
        raise UserError("no")
    assert not folder.exists() and not list(forest.paths.averages.glob(".tmp-*"))


def test_the_settings_of_an_average_are_read_from_its_card(forest):
    settings = Settings(method="ties", base=forest["seed"].path, density=0.4)
    folder = publish.average(forest, "ties", {"bible": 1.0}, settings=settings)
    card = Card.read(folder / "card.json")
    assert publish.settings_again(forest, card) == settings
    assert publish.scale_of(forest, "ties", {"bible": 1.0}, settings) == 1.0
    assert publish.scale_of(forest, "ties", {"bible": 2.0}, settings) is None


def test_a_given_scale_is_no_fitted_one_and_a_fitted_one_is_of_its_text(forest):
    settings = Settings(method="task_arithmetic", base=forest["seed"].path, scale=0.25)
    parents = {"bible": 1.0}

    def scale_of(said):
        return publish.scale_of(forest, "deploy", parents, settings, said)

    lines = []
    for asked, said in ((0.25, ""), ("fit", "fitted on bible"), ("fit", "fitted on novels")):
        publish.average(
            forest,
            "deploy",
            parents,
            settings=settings,
            scale=asked,
            estimator=said,
            say=lines.append,
        )
        assert scale_of(said) == (0.25 if asked == "fit" else None)
        assert scale_of("fitted on speeches") is None
    place = forest.paths.average("deploy").path
    assert lines == [
        f"{place} is of other settings: average.scale was 0.25, now fit: it is made anew",
        f"{place} is of other settings: how it was found was fitted on bible, now fitted on "
        "novels: it is made anew",
    ]
    file = forest.paths.average("deploy").card
    card = Card.read(file)
    file.write_text(json.dumps(replace(card, estimator="", settings={}).to_json()))
    assert scale_of("fitted on speeches") == 0.25  # a card from before these were kept
