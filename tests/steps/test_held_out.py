"""Text that changes under a forest: what was trained on is never evaluated on, and what stands is
held against the text that there is now.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import DEMO, tree

from btm import steps
from btm.cli import dry_run, main
from btm.cli.compose import compose
from btm.data.documents import read
from btm.errors import UserError
from btm.forest import Forest, gc, removal, trained_on, verify
from btm.report import Reporter
from btm.report.progress import Lines
from btm.steps import standing
from btm.steps.evaluate import evaluation_stands

pytestmark = [pytest.mark.slow, pytest.mark.traced]

SIZES = {"train": 24, "valid": 6, "test": 6}


def documents(domain, count):
    """The first documents of a domain of the demo, made short."""
    texts = read(DEMO / domain / "train.jsonl.zst", "text")
    return [next(texts)[:600] for _ in range(count)]


def write(file, texts):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def add(file, texts):
    write(file, [*read(file, "text"), *texts])


def words_in(folder):
    return [
        "experiment=smoke",
        "data=folder",
        f"data.root={folder / 'texts'}",
        f"data.out={folder / 'data'}",
        "data.name=mine",
        f"forest={folder / 'forest'}",
        "trainer.steps=3",
        "seed.steps=3",
        "run.rounds=[]",
        "run.average=false",
        "merge.force=true",
    ]


@pytest.fixture(scope="module")
def grown_once(tmp_path_factory):
    """A forest of two domains that have splits of their own."""
    folder = tmp_path_factory.mktemp("held-out")
    for domain in ("bible", "speeches"):
        texts = documents(domain, sum(SIZES.values()))
        for split, size in SIZES.items():
            write(folder / "texts" / domain / f"{split}.jsonl", texts[:size])
            texts = texts[size:]
    steps.run(compose(words_in(folder)))
    return folder


@pytest.fixture
def place(grown_once, tmp_path):
    """This test's own copy of that forest, with its text."""
    shutil.copytree(grown_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def config_of(place, *more):
    return compose([*words_in(place), *more])


def digests_of(place, domain, split):
    return steps.open_suite(config_of(place)).shard(domain, split).digests


def test_a_forest_keeps_the_documents_that_it_was_trained_on(place):
    forest = Forest(place / "forest")
    for name in ("bible", "speeches"):
        (sha256,) = forest[name].card.data.values()
        kept = trained_on.read(forest.paths, sha256)
        assert kept.tolist() == sorted(digests_of(place, name, "train").tolist())
    assert len(forest.paths.trained_ons()) == 2  # the seed was trained on the same shards
    assert not [waste for waste in gc.find(forest) if forest.root in waste.path.parents]
    assert not verify.verify(forest.root, full=True)


def test_documents_that_move_from_train_to_test_are_refused(tmp_path):
    for domain in ("bible", "speeches"):
        write(tmp_path / "texts" / f"{domain}.jsonl", documents(domain, 40))
    steps.run(config_of(tmp_path))
    before = {d: set(digests_of(tmp_path, d, "train").tolist()) for d in ("bible", "speeches")}
    suite = steps.prepare(config_of(tmp_path, "data.test_fraction=0.4"))
    test = suite.shard("bible", "test").digests
    count = sum(digest in before["bible"] for digest in test.tolist())
    assert count > 5
    wanted = (
        f"{count} of {len(test)} documents of bible/test .* are training text of .*bible, .*: "
        "prepare the text as it was .*, give another forest=DIR, or other eval.domains"
    )
    kept = tree(tmp_path)
    with pytest.raises(UserError, match=wanted):
        steps.eval_forest(config_of(tmp_path))
    with pytest.raises(UserError, match=wanted):
        steps.plan_of_eval(config_of(tmp_path))
    with pytest.raises(UserError, match=wanted):
        steps.compare(config_of(tmp_path))
    with pytest.raises(UserError, match="'seed' was trained on are no longer in its train split"):
        dry_run.plan("run", config_of(tmp_path, "data.test_fraction=0.4"))
    with pytest.raises(UserError, match="'seed' was trained on are no longer in its train split"):
        steps.run(config_of(tmp_path, "data.test_fraction=0.4"))
    assert {p for p in tree(tmp_path) if p not in kept} == set()


def test_a_document_of_one_domain_is_refused_where_another_was_trained_on_it(place):
    train = list(read(place / "texts/speeches/train.jsonl", "text"))
    add(place / "texts/bible/test.jsonl", train[:1])
    write(place / "texts/speeches/train.jsonl", train[1:])
    steps.prepare(config_of(place))
    with pytest.raises(UserError) as refused:
        steps.eval_forest(config_of(place))
    assert str(refused.value).startswith(
        "1 of 7 documents of bible/test are training text of speeches, seed, bible: "
    )
    assert "or eval.domains=[speeches]" in str(refused.value)
    result = steps.eval_forest(config_of(place, "eval.domains=[speeches]"))
    assert list(result["shards"]) == ["speeches/test"]
    lost = r"1 of the 24 documents of speeches that '{}' was .* \(1 now in bible/test\): "
    with pytest.raises(UserError, match=lost.format("seed") + ".* forest=DIR$"):
        steps.run(config_of(place))
    forest, suite = Forest(place / "forest"), steps.open_suite(config_of(place))
    with pytest.raises(UserError, match=lost.format("speeches") + ".*remove .*expert=speeches"):
        standing.require_trained(forest, suite, ["speeches"], print)


def test_a_valid_document_that_was_trained_on_fits_no_prior(place):
    train = list(read(place / "texts/speeches/train.jsonl", "text"))
    add(place / "texts/bible/valid.jsonl", train[:2])
    write(place / "texts/speeches/train.jsonl", train[2:])
    steps.prepare(config_of(place))
    with pytest.raises(UserError, match="2 of 8 documents of bible/valid are training text of"):
        steps.eval_forest(config_of(place))
    cached = ["ensemble=uniform", "ensemble.cache=ngram"]  # its weights are fitted on valid too
    with pytest.raises(UserError, match="2 of 8 documents of bible/valid are training text of"):
        steps.eval_forest(config_of(place, *cached))
    result = steps.eval_forest(config_of(place, "ensemble=uniform"))
    assert set(result["shards"]) == {"bible/test", "speeches/test"}


def test_a_cycle_that_would_train_on_its_test_text_is_refused_before_it_trains(place):
    held_out = place / "data/mine/bible/test.docs"
    file = place / "data/mine/speeches/train.docs"  # as a suite of before domains were compared
    file.write_bytes(held_out.read_bytes()[:16] + file.read_bytes()[16:])
    with pytest.raises(
        UserError,
        match=r"2 of 6 documents of bible/test are training text of speeches, seed: "
        r"prepare the text without them, .*eval.domains=\[speeches\]",
    ):
        steps.run(config_of(place, f"forest={place / 'new'}"))
    assert not (place / "new").exists()


def test_a_job_of_a_cycle_stops_where_its_text_was_packed_anew(place):
    text = standing.text_of(steps.open_suite(config_of(place)))
    standing.require_text(config_of(place), text)
    add(place / "texts/bible/valid.jsonl", documents("bible", 38)[36:])
    steps.prepare(config_of(place))
    with pytest.raises(UserError, match="the text of bible was packed anew since this cycle began"):
        standing.require_text(config_of(place), text)


def test_text_that_grows_is_named_and_evaluated_anew(place):
    before = {elm.name: elm.card.sha256 for elm in Forest(place / "forest").elms()}
    file = place / "forest" / "evals" / "forest.json"
    old = json.loads(file.read_bytes())
    assert evaluation_stands(config_of(place))
    more = documents("bible", 44)[36:]
    add(place / "texts/bible/train.jsonl", more[:4])
    add(place / "texts/bible/test.jsonl", more[4:])
    lines = Lines()
    steps.prepare(config_of(place))
    assert not evaluation_stands(config_of(place))
    (note,) = [row for row in dry_run.plan("run", config_of(place)) if "bible was" in row["what"]]
    assert note["job"] == "note"
    result = steps.run(config_of(place), lines)
    assert len(lines.said) == len(set(lines.said))
    assert "bible was trained on 24 of the 28 documents that train of bible has now" in lines.said
    assert "seed was trained on 24 of the 28 documents that train of bible has now" in lines.said
    assert not any(line.startswith("speeches was") for line in lines.said)
    assert {elm.name: elm.card.sha256 for elm in Forest(place / "forest").elms()} == before
    assert result["text"]["bible"] != old["text"]["bible"]
    assert result["text"]["speeches"] == old["text"]["speeches"]
    assert result["shards"]["bible/test"]["tokens"] > old["shards"]["bible/test"]["tokens"]
    assert evaluation_stands(config_of(place))


def test_an_imported_expert_under_the_name_of_a_domain_is_named(place):
    card = Forest(place / "forest")["bible"].path / "card.json"
    card.write_text(json.dumps(json.loads(card.read_bytes()) | {"source": "models/bible"}))
    said = [row["what"] for row in dry_run.plan("run", config_of(place, "trainer.steps=99"))]
    assert "bible was imported from models/bible and stays as it is: nothing is trained" in said


def test_an_evaluation_stands_for_its_settings_and_elms_alone(place):
    assert evaluation_stands(config_of(place))
    assert not evaluation_stands(config_of(place, "ensemble=uniform"))
    assert not evaluation_stands(config_of(place, "score.max_tokens=128"))
    removal.remove(Forest(place / "forest"), "speeches")
    assert not evaluation_stands(config_of(place))


def test_a_half_trained_branch_goes_on_with_its_text_alone(place):
    forest = Forest(place / "forest")
    removal.remove(forest, "bible")
    removal.readmit(forest, "bible")
    config = config_of(place, "trainer.checkpoint_every=1", "trainer.steps=6")
    steps.branch(config, "bible", "bible", among=["seed"])

    class Stopped(Reporter):
        def pulse(self, step):
            return step == 2

    with pytest.raises(Exception, match="stop"):
        steps.train(config, "bible", Stopped())
    add(place / "texts/bible/train.jsonl", documents("bible", 38)[36:])
    steps.prepare(config)
    with pytest.raises(UserError, match="half trained on other text than train of bible has now"):
        steps.train(config, "bible")


def test_digests_go_with_the_last_model_that_needs_them(place):
    forest = Forest(place / "forest")
    removal.remove(forest, "bible")
    assert len(forest.paths.trained_ons()) == 2  # the seed still stands
    removal.remove(forest, "speeches")
    removal.remove(forest, "seed")
    assert forest.paths.trained_ons() == []


def test_digests_that_are_damaged_or_gone_are_found(place):
    forest = Forest(place / "forest")
    file, gone = forest.paths.trained_ons()
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(bytes(data))
    gone.unlink()
    found = verify.verify(forest.root)
    assert [(f.what, f.problem, f.note) for f in found] == [
        (f"trained-on/{file.name}", "bytes changed", False),
        ("trained-on", found[1].problem, True),
    ]
    assert "seed" in found[1].problem
    file.unlink()
    steps.prepare(config_of(place))  # the suite still has that text
    assert not verify.verify(forest.root, full=True)


def test_a_suite_without_digests_is_evaluated_with_a_note(place):
    for file in (place / "data").glob("*/*/*.docs"):
        file.unlink()
    lines = Lines()
    steps.eval_forest(config_of(place), lines)
    (note,) = {line for line in lines.said if "test" in line and line.startswith("note")}
    assert note.startswith("note: bible/test, speeches/test has no digests of documents")


def test_a_hundred_shards_are_searched_in_one_pass():
    rng = np.random.default_rng(0)
    held_out = np.unique(rng.integers(0, 1 << 63, 5_000, np.uint64))
    shards = [(str(i), np.unique(rng.integers(0, 1 << 63, 2_000, np.uint64))) for i in range(100)]
    assert trained_on.hits(held_out, shards) == {}
    shards[7] = ("7", np.unique(np.append(shards[7][1], held_out[[3, 4999]])))
    (found,) = trained_on.hits(held_out, shards).items()
    assert found[0] == "7" and found[1].tolist() == held_out[[3, 4999]].tolist()
    assert trained_on.hits(held_out, [("empty", held_out[:0])]) == {}


@pytest.mark.slow
def test_the_same_words_on_other_text_are_another_cycle(place, capsys):
    words = [*words_in(place), "cluster=local", "trainer.threads=1"]
    assert main.main(["run", *words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    add(place / "texts/bible/test.jsonl", documents("bible", 40)[36:])
    assert main.main(["run", *words, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["text"]["bible"]["test"] != first["text"]["bible"]["test"]
    assert second["elms"] == first["elms"]
    assert len(list(Path(place / "forest/jobs/cycles").glob("*.json"))) == 2


def test_regrow_trains_anew_what_was_trained_on_text_that_is_gone(place, capsys):
    file, forest = place / "texts/bible/train.jsonl", Forest(place / "forest")
    before = {elm.name: elm.card.sha256 for elm in forest.elms()}
    write(file, list(read(file, "text"))[4:])
    words = [*words_in(place), "cluster=debug"]
    assert main.main(["run", *words]) == 2
    assert "no longer in its train split" in capsys.readouterr().err
    assert main.main(["run", *words, "--regrow"]) == 0
    assert "removing bible: some of the text" in capsys.readouterr().err
    after = {elm.name: elm.card.sha256 for elm in Forest(place / "forest").elms()}
    assert before.keys() == after.keys() and after["bible"] != before["bible"]
    assert not verify.verify(place / "forest")


def test_a_pool_that_grows_goes_on(tmp_path, capsys):
    """Files that btm splits: added documents move none that an ELM was trained on."""
    for domain in ("bible", "speeches"):
        write(tmp_path / "texts" / f"{domain}.jsonl", documents(domain, 40))
    steps.run(config_of(tmp_path))
    before = {s: digests_of(tmp_path, "bible", s) for s in ("train", "valid", "test")}
    write(tmp_path / "texts/bible.jsonl", documents("bible", 100))
    lines = Lines()
    result = steps.run(config_of(tmp_path), lines)
    assert "bible: its documents keep their splits, new ones are dealt" in lines.said
    assert any(line.startswith("bible was trained on ") for line in lines.said)
    for split, digests in before.items():
        now = digests_of(tmp_path, "bible", split)
        assert len(now) > len(digests) and np.isin(digests, now).all()
    assert evaluation_stands(config_of(tmp_path)) and result["shards"]["bible/test"]["tokens"]
