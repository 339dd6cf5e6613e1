"""Readers by commands: trained, saved, resumed, evaluated, asked; and one of somebody's own."""

import json
from pathlib import Path

import numpy as np
import own_reader
import pytest
import torch
from readers_graphs import NATIONS, few, splits, untrained

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest, readers
from btm.readers import compare, folder, steps, train
from btm.readers.ground import Ground
from btm.readers.links.words import vectors
from btm.readers.setting import Example, QASetting
from btm.report.progress import Reporter

TINY = ["reader.epochs=2", "reader.batch_size=64", "reader.checkpoint_every=3"]
TEXTS = ("In the beginning God created the heaven and the earth.", "My fellow citizens of Congress")
LINKS = ["reader=link_prediction", "reader.model=distmult", "reader.options={dim: 8}"]


@pytest.fixture
def words(copy):
    """Words for a forest of this test's own."""
    return [f"forest={copy().forest_root}", f"reader.data={NATIONS}", *LINKS, *TINY]


def said(capsys, *words):
    """The JSON that a command prints."""
    assert main.main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


class Stopping(Reporter):
    """Asks a training to stop after a step."""

    def __init__(self, after):
        self.after = after

    def pulse(self, step):
        return step == self.after


@pytest.mark.parametrize("model", ["conve", "distmult"])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(tmp_path, model):
    items = untrained(model).input.items(splits()["train"], answered=True)
    whole, parts = untrained(model), untrained(model)
    steps_done = train.fit(whole, items, few())
    with pytest.raises(TrainingStoppedError):
        train.fit(parts, items, few(), tmp_path, Stopping(4))
    again = untrained(model)
    assert train.fit(again, items, few(), tmp_path) == steps_done > 4
    wanted = whole.model.state_dict()
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_links_are_learnt():
    reader = untrained("distmult")
    before = reader.measure(splits()["train"])["MRR"].mean()
    items = reader.input.items(splits()["train"], answered=True)
    train.fit(reader, items, few(epochs=30))
    assert reader.measure(splits()["train"])["MRR"].mean() > before + 0.15


@pytest.mark.slow
@pytest.mark.traced
def test_a_reader_is_trained_saved_and_asked(words, capsys):
    (plan,) = said(capsys, "read", "train", *words, "--dry-run")
    card = said(capsys, "read", "train", *words)
    assert plan["writes"] == [card["path"]] and "520 questions, 2 epochs" in plan["what"]
    assert "stands" in said(capsys, "read", "train", *words, "--dry-run")[0]["what"]
    forest = Forest(card["path"].partition("/readers/")[0])
    assert card["on"] is None and card["models"] == {} and set(card["data"]) >= {"train.txt"}
    assert not forest.paths.reader_in_making("distmult").exists()
    first, _ = folder.load(forest, "distmult")
    second, _ = folder.load(forest, "distmult")
    asked = [example.setting for example in splits()["test"]]
    assert first(asked) == second(asked)
    found = said(capsys, "read", "eval", f"forest={forest.root}", "reader.name=distmult")
    mean, low, high = found["values"]["MRR"]
    assert low < mean < high and found["questions"] == 48
    known = card["measured"]["valid"]["MRR"]
    again = said(
        capsys,
        "read",
        "eval",
        f"forest={forest.root}",
        "reader.name=distmult",
        "reader.split=valid",
    )
    assert again["values"]["MRR"][0] == known
    ask = ["read", "answer", f"forest={forest.root}", "reader.name=distmult"]
    best = said(capsys, *ask, "reader.question=cuba embassy ?")
    assert len(best) == 10 and best[0]["score"] >= best[1]["score"]
    whole = said(capsys, *ask, f"reader.question=cuba embassy {best[0]['text']}")
    assert whole[0]["score"] == best[0]["score"]
    # The same words find it; others train it anew.
    stamp = forest.paths.reader("distmult").card.stat().st_mtime_ns
    said(capsys, "read", "train", *words)
    assert forest.paths.reader("distmult").card.stat().st_mtime_ns == stamp
    said(capsys, "read", "train", *words, "reader.seed=3")
    assert forest.paths.reader("distmult").card.stat().st_mtime_ns > stamp
    assert main.main(["ls", f"forest={forest.root}"]) == 0
    assert "readers: distmult" in capsys.readouterr().out
    gone = ["remove", f"forest={forest.root}", "reader.name=distmult"]
    assert main.main([*gone, "--rederive"]) == 2
    assert "leave out --rederive" in capsys.readouterr().err
    assert said(capsys, *gone)["removed"] == str(forest.paths.reader("distmult").path)
    assert not forest.paths.readers() and not list((forest.root / "readers").iterdir())
    assert main.main(gone) == 2


@pytest.mark.slow
def test_a_command_that_was_stopped_goes_on(words):
    _, whole = steps.train(compose([*words, "reader.name=whole"]))
    parts = [*words, "reader.name=parts"]
    with pytest.raises(TrainingStoppedError):
        steps.train(compose(parts), Stopping(4))
    with pytest.raises(UserError, match="half trained with other settings"):
        steps.train(compose([*parts, "reader.seed=9"]))
    with pytest.raises(TrainingStoppedError):
        steps.train(compose([*words, "reader.name=dropped"]), Stopping(4))
    root = Path(compose(words).forest_root)
    readers.remove(root, "dropped")
    assert not list((root / "readers").glob(".dropped*"))
    path, card = steps.train(compose(parts))
    assert card.sha256 == whole.sha256 and card.steps == whole.steps
    assert [each.name for each in path.parent.iterdir() if each.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.traced
def test_what_is_wrong_with_a_reader_is_one_line(words, capsys, tmp_path):
    forest = words[0]
    cases = {
        "which questions?": ["read", "train", forest, *LINKS],
        "no such folder": ["read", "train", *words, f"reader.data={tmp_path / 'none'}"],
        "no train split": ["read", "train", *words, f"reader.data={tmp_path}"],
        "is not said": ["read", "train", *words[:2]],
        "no reader 'conve'": ["read", "eval", forest, "reader.name=conve"],
        "what is asked?": ["read", "answer", forest, "reader.name=x"],
        "which one?": ["read", "train", *words, "on=expert"],
        "stands on models, by on": [
            "read",
            "train",
            *words,
            "reader.options={vectors: text, texts: x}",
        ],
        "btm read: which verb? train, eval": ["read"],
        "expert has no effect here: on=forest; wanted on=expert": [
            *("read", "train", *words, "on=forest", "expert=bible")
        ],
        "does not read on=forest": ["read", "eval", forest, "reader.name=x", "on=forest"],
    }
    for wanted, command in cases.items():
        assert main.main(command) == 2, command
        err = capsys.readouterr().err
        assert wanted in err and err.count("\n") == 1, err


@pytest.mark.slow
def test_a_reader_stands_on_models_of_its_forest(words, capsys, tmp_path):
    texts = tmp_path / "texts.tsv"
    names = sorted(untrained("distmult").input.entities)
    texts.write_text("".join(f"{name}\t{name}\tn\tthe country of {name}\n" for name in names))
    text = f"reader.options={{dim: 8, vectors: text, texts: '{texts}'}}"
    card = said(capsys, "read", "train", *words, "on=forest", text)
    forest = Forest(words[0].partition("=")[2])
    elms = {elm.name: elm.card.sha256 for elm in forest.experts()}
    assert card["models"] == elms and card["on"] == "forest"
    gone = next(iter(elms))
    assert readers.standing_on(forest.root, elms[gone]) == ["distmult"]
    removed = said(capsys, "remove", f"expert={gone}", words[0])
    assert any("distmult" in line for line in removed["advice"])
    assert main.main(["read", "eval", words[0], "reader.name=distmult"]) == 2
    assert gone in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.traced
def test_states_of_experts_are_mixed_by_the_posterior(grown):
    forest = Forest(grown[0].forest_root)
    both = Ground.of(
        compose([f"forest={forest.root}", "on=forest", "ensemble.experts=[bible,speeches]"])
    )
    ids = [both.tokens(text).ids for text in ("In the beginning", "and it came to pass, behold")]
    alone = [
        Ground.of(compose([f"forest={forest.root}", "on=expert", f"expert={name}"])).encode(ids)
        for name in ("bible", "speeches")
    ]
    for number, found in enumerate(both.encode(ids)):
        states = np.stack([each[number].states for each in alone])
        assert found.weights.sum() == pytest.approx(1)
        assert np.allclose(found.states, np.tensordot(found.weights, states, 1), atol=1e-5)
        logp = [own_logp(both, j, ids[number]) for j in (0, 1)]
        odds = np.exp(logp[1] - logp[0])
        assert found.weights[1] / found.weights[0] == pytest.approx(odds, rel=1e-3)
    pooled = both.encode(ids, pooled=True)
    assert np.allclose(pooled[1].states[0], both.encode(ids)[1].states.mean(0), atol=1e-5)


def own_logp(ground, number, ids):
    """The plain log-probability of a text under one model, BOS or EOS before it."""
    from btm.models import causal_lm

    whole = torch.tensor([[ground.start, *ids]])
    with torch.inference_mode():
        logits = causal_lm.logits_of(ground.loaded[number](input_ids=whole))[0, :-1]
    return float(logits.log_softmax(-1).gather(1, whole[0, 1:, None]).sum())


def test_words_are_vectors_without_a_model():
    found = vectors(["the cat sat", "the cat ran", "of nations"])
    near, far = found[0] @ found[1], found[0] @ found[2]
    assert near > far and np.allclose((found**2).mean(1), 1)


OWN = [
    *("reader.questions=own_reader:read", "reader.input=own_reader:Lengths"),
    *("reader.model=own_reader:Slope", "reader.output=candidates"),
]


@pytest.mark.slow
def test_a_reader_of_ones_own(copy, tmp_path, capsys):
    for split in ("train", "valid"):
        rows = [
            {"question": "longest?", "candidates": ["a" * n, "bb"], "answer": "a" * n}
            for n in (3, 4, 9)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(Path(own_reader.__file__).read_text().splitlines()) < 60
    forest, own = f"forest={copy().forest_root}", OWN
    words = [forest, f"reader.data={tmp_path}", *own, "reader.epochs=50", "reader.lr=0.1"]
    card = said(capsys, "read", "train", *words, "reader.name=mine")
    assert card["measured"]["valid"]["accuracy"] == 1
    asked = ["read", "answer", forest, "reader.name=mine", "reader.question=which?"]
    asked.append("reader.candidates=[short,a longer one]")
    assert main.main(asked) == 2
    assert "runs code of its own" in capsys.readouterr().err
    assert said(capsys, *asked, *own)[0]["text"] == "a longer one"


def test_a_damaged_folder_is_one_line(tmp_path, copy):
    forest = Forest(copy().forest_root)
    reader = untrained("distmult")
    card = readers.ReaderCard("distmult", "", None, {}, {}, {"reader.data": str(NATIONS)})
    target = forest.paths.reader("distmult")
    folder.save(reader, card, target)
    assert folder.load(forest, "distmult")[0]([QASetting("cuba embassy ?")])
    target.learnt.write_text(target.learnt.read_text().replace("cuba", "kuba"))
    with pytest.raises(UserError, match=r"learnt\.json: its sha256 is another"):
        folder.load(forest, "distmult")


@pytest.mark.slow
def test_argmax_asks_the_likeliest_expert_of_each_support(grown):
    config = compose([f"forest={grown[0].forest_root}", "ensemble.experts=[bible,speeches]"])
    examples = [Example(QASetting("which?", (text,))) for text in TEXTS]
    values = {
        "bible": {"accuracy": np.array([0.25, 0.5])},
        "speeches": {"accuracy": np.array([0.75, 1.0])},
    }
    ground = Ground.of(compose([f"forest={grown[0].forest_root}", "on=forest"]))
    assert ground is not None and {model.name for model in ground.models} > {"bible"}
    found = compare._of_argmax(config, examples, values)["accuracy"]
    pair = Ground.of(
        compose(
            [f"forest={grown[0].forest_root}", "on=forest", "ensemble.experts=[bible,speeches]"]
        )
    )
    weights = [each.weights for each in pair.encode([pair.tokens(text).ids for text in TEXTS])]
    names = ["bible", "speeches"]
    wanted = [values[names[w.argmax()]]["accuracy"][n] for n, w in enumerate(weights)]
    assert found.tolist() == wanted
    assert weights[0][0] > 0.5, "the Bible's expert knows its first words"


@pytest.mark.slow
@pytest.mark.traced
def test_rows_stand_on_what_there_is(copy, tmp_path, capsys):
    for split in ("train", "test"):
        rows = [
            {"question": "which?", "support": [text], "candidates": ["a", "bbb"], "answer": "bbb"}
            for text in TEXTS
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own, root = OWN, copy().forest_root
    words = [f"forest={root}", f"reader.data={tmp_path}", *own, "reader.name=mine"]
    words += ["reader.epochs=50", "reader.lr=0.1", "ensemble.experts=[bible,speeches]"]
    assert main.main(["read", "compare", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["on"]: row for row in found["rows"]}
    average = {"average"} if (Forest(root).paths.averages).is_dir() else set()
    assert set(rows) == {"forest", "seed", "argmax"} | average
    assert all(row["values"]["accuracy"] == [1, 1, 1] for row in rows.values())
    assert all(row["behind"]["accuracy"] == [0, 0, 0] for row in rows.values())
    assert any("no row dense" in note for note in found["notes"])
    have = {each.path.name for each in Forest(root).paths.readers()}
    assert have >= {"mine-forest", "mine-seed", "mine-of-bible", "mine-of-speeches"}
    assert found["readers"].keys() == have and all(map(len, found["readers"].values()))
    # Readers that stand are not trained again.
    card = Forest(root).paths.reader("mine-seed").card
    stamp = card.stat().st_mtime_ns
    assert main.main(["read", "compare", *words]) == 0
    assert "forest ahead, accuracy" in capsys.readouterr().out
    assert card.stat().st_mtime_ns == stamp
