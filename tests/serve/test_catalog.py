"""What a server answers by name is what stands in the forest, and follows it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from btm import steps
from btm.ensemble.rules import RULES
from btm.errors import UserError
from btm.forest import Forest, removal
from btm.forest.suites import open_suites
from btm.serve.catalog import Catalog, UnknownModelError
from btm.steps import domain_weights

NAMES = ("bible", "code_python", "speeches")


def test_every_rule_and_every_model_has_a_name(grown):
    catalog = Catalog(grown[0])
    names = [served.name for served in catalog]
    rules = [f"forest:{rule}" for rule in RULES if rule != "router"]  # none was discovered
    assert names[: len(rules) + 1] == ["forest", *rules]
    assert {*NAMES, "seed"} < set(names)
    assert [member.name for member in catalog.find("forest").members] == list(NAMES)
    assert [member.name for member in catalog.find("bible").members] == ["bible"]


def test_a_forest_that_did_not_change_is_not_made_anew(grown):
    catalog = Catalog(grown[0])
    before = list(catalog)
    assert not catalog.refresh()
    assert all(was is now for was, now in zip(before, catalog, strict=True))


def test_an_expert_that_is_called_forest_does_not_hide_the_ensemble(copy):
    config = copy("branch=copy", "trainer.steps=2")
    steps.branch(config, "forest", "novels")
    steps.train(config, "forest")
    forest = Forest(config.forest_root)
    forest.merge(forest.get_branch("forest"), force=True)
    served = Catalog(config).find("forest")
    assert (served.kind, len(served.members)) == ("ensemble", 4)


def test_a_domain_gives_the_prior_of_its_valid_text_and_a_top_k_keeps_by_it(copy):
    config = copy("domain=bible", "ensemble.top_k=2", "ensemble.rule=bayes")
    served = Catalog(config).find("forest")
    suite, forest = open_suites(config), Forest(config.forest_root)
    members = list(Catalog(copy()).find("forest").members)
    prior, _ = domain_weights.fit_for(config, forest, suite, "bible", members)
    best = sorted(prior, key=lambda name: -prior[name])[:2]
    assert {member.name for member in served.members} == set(best)
    wanted = np.array([prior[member.name] for member in served.members])
    assert np.exp(served.log_prior) == pytest.approx(wanted / wanted.sum())


def test_a_top_k_of_equals_is_refused(copy):
    with pytest.raises(UserError, match="give a prior, as domain=NAME does"):
        Catalog(copy("ensemble.top_k=2", "ensemble.commit=0"))


def test_it_follows_what_is_merged_and_removed(copy):
    config = copy("branch=copy", "trainer.steps=2")
    catalog = Catalog(config)
    assert not catalog.refresh()
    removal.remove(Forest(config.forest_root), "speeches")
    assert catalog.refresh()
    with pytest.raises(UnknownModelError, match="no model 'speeches'"):
        catalog.find("speeches")
    assert "speeches" not in [member.name for member in catalog.find("forest").members]
    steps.branch(config, "tales", "novels")
    steps.train(config, "tales")
    assert not catalog.refresh()  # a branch is no expert yet
    forest = Forest(config.forest_root)
    forest.merge(forest.get_branch("tales"), force=True)
    assert catalog.refresh()
    assert "tales" in [member.name for member in catalog.find("forest").members]


def test_another_rule_of_the_same_members_needs_no_other_copies(grown):
    catalog = Catalog(replace(grown[0]))
    shas = {tuple(m.sha256 for m in s.members) for s in catalog if s.kind == "ensemble"}
    assert len(shas) == 1


def test_members_that_are_named_and_then_removed_are_left_out_while_a_server_runs(copy, caplog):
    config = copy("ensemble.experts=[bible,speeches]")
    catalog = Catalog(config)
    removal.remove(Forest(config.forest_root), "speeches")
    assert catalog.refresh()
    assert [member.name for member in catalog.find("forest").members] == ["bible"]
    assert not catalog.refresh()
    assert caplog.text.count("not served any more") == 1
    with pytest.raises(UserError, match="speeches"):
        Catalog(config)  # at the start it is an error


def test_some_experts_are_an_ensemble_by_a_name_of_their_own(copy):
    catalog = Catalog(copy("domain=bible", "ensemble.rule=bayes"))
    some = catalog.find("forest[speeches,bible]")
    assert (some.name, some.kind) == ("forest[bible,speeches]", "ensemble")
    assert [member.name for member in some.members] == ["bible", "speeches"]
    whole = catalog.find("forest")
    wanted = np.exp(whole.log_prior[[0, 2]])
    assert np.exp(some.log_prior) == pytest.approx(wanted / wanted.sum(), rel=0.1)
    assert catalog.find("forest[bible,speeches]") is some
    gated = catalog.find("forest:gated[code_python]")
    assert [member.name for member in gated.members] == ["code_python"] and gated.rule != some.rule
    assert "[" not in "".join(served.name for served in catalog)


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "forest[lwa]": "no expert 'lwa' in forest; there are bible, code_python, speeches",
        "forest[]": "no expert ''",
        "forest[bible,bible]": "bible stands there twice",
        "forest:bays[bible]": "no model 'forest:bays'",
        "bible[bible]": "bible is one model",
        "forest[bible]]": "no model 'forest[bible]]'",
    }.items(),
)
def test_a_wrong_choice_of_experts_says_what_there_is(grown, name, said):
    with pytest.raises(UnknownModelError, match=re.escape(said)):
        Catalog(grown[0]).find(name)


def test_an_expert_that_is_removed_is_chosen_no_more(copy):
    catalog = Catalog(copy())
    assert len(catalog.find("forest[bible,speeches]").members) == 2
    removal.remove(catalog.forest, "speeches")
    assert catalog.refresh()
    with pytest.raises(UnknownModelError, match="no expert 'speeches'"):
        catalog.find("forest[bible,speeches]")
