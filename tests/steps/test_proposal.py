"""The steps that are chosen by the amount of text: how many, said where, and kept."""

import json
import shutil
from pathlib import Path

import pytest
from folders import DEMO, ROOT

from btm import steps
from btm.cli import main
from btm.cli.compose import compose
from btm.data.amounts import BYTES_PER_TOKEN
from btm.data.documents import read
from btm.forest import Forest
from btm.steps import proposal
from btm.steps.costs import Costs
from btm.steps.plan import MANY_EPOCHS

SMALL = ["data.vocab_size=512", "model.config.hidden_size=32", "model.config.num_hidden_layers=1"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with little text in two domains."""
    root = tmp_path_factory.mktemp("proposal")
    for domain in ("law", "med"):
        texts = list(
            read(DEMO / {"law": "speeches", "med": "bible"}[domain] / "train.jsonl.zst", "text")
        )
        (root / "texts").mkdir(exist_ok=True)
        lines = [json.dumps({"text": text}) + "\n" for text in texts[:10]]
        (root / "texts" / f"{domain}.jsonl").write_text("".join(lines))
    return root


@pytest.fixture
def words(site, tmp_path, monkeypatch):
    """Words of a cycle on that text without any number of steps, in a folder of its own."""
    shutil.copytree(site / "texts", tmp_path / "texts")
    monkeypatch.chdir(tmp_path)
    words = ["data=folder", "data.root=texts", "data.name=mine", *SMALL, "trainer.seq_len=32"]
    return [*words, "trainer.threads=1", "score.max_tokens=256", "merge.force=true"]


def proposed(words, *more):
    config = compose([*words, *more])
    return config, proposal.of_suite(config, steps.prepare(config))


def test_it_is_twenty_tokens_for_each_parameter_where_there_is_text(words):
    small = [
        "model.config.hidden_size=4",
        "model.config.intermediate_size=4",
        "trainer.batch_size=1",
    ]
    small += ["model.config.num_attention_heads=1", "model.config.num_key_value_heads=1"]
    config, found = proposed(words, *small, "trainer.seq_len=8")
    wanted = proposal.TOKENS_EACH * Costs.of(config).parameters
    assert wanted > proposal.FEWEST * 8
    assert wanted - 8 * 4 < found.tokens <= wanted
    assert found.seed_steps == 2 * found.steps


def test_no_more_than_four_passes_over_the_text(words):
    config, found = proposed(words)
    assert found.text < proposal.FEWEST * 16 * 32 / MANY_EPOCHS
    assert MANY_EPOCHS * found.text - 16 * 32 * 4 < found.tokens <= MANY_EPOCHS * found.text
    assert config.seed_steps(["law", "med"]) == 0, "nothing is decided before"


@pytest.mark.parametrize(
    ("word", "seed_steps"), [("seed.steps=3", 3), ("seed.steps=0", 0), ("seed.steps=null", None)]
)
def test_a_seed_phase_that_is_given_is_taken_off(words, word, seed_steps):
    _, found = proposed(words, word)
    assert found.seed_steps == (2 * found.steps if seed_steps is None else seed_steps)
    assert found.seed_steps + 2 * found.steps <= MANY_EPOCHS * found.text // (16 * 32)


@pytest.mark.slow
def test_run_says_what_it_chooses_and_keeps_to_it(words, capsys):
    assert main.main(["run", *words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    about = {row["job"]: row for row in planned}
    counted = "until btm prepare has counted them"
    assert any(counted in row["what"] for row in planned)
    assert not Path("data").exists(), "nothing is written"
    assert main.main(["prepare", *words]) == 0
    _, found = proposed(words)
    capsys.readouterr()
    assert main.main(["run", *words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    rows = {row["job"]: row for row in planned}
    assert not any(counted in row["what"] for row in planned)
    assert rows["train-law"]["tokens"] == found.steps * 16 * 32
    assert rows["all"]["tokens"] == found.tokens
    assert 0.7 < about["all"]["tokens"] / found.tokens < 1.4

    assert main.main(["run", *words, "cluster=debug"]) == 0
    said = capsys.readouterr().err
    assert said.count(f"trainer.steps={found.steps} follows from the amount of text") == 1
    forest = Forest("experts/mine")
    assert {elm.name: elm.card.steps for elm in forest.elms()} == {
        "seed": found.seed_steps,
        "law": found.steps,
        "med": found.steps,
    }
    kept = json.loads((forest.root / "settings.json").read_text())["settings"]
    assert kept["trainer"]["steps"] == found.steps

    assert main.main(["run", *words, "cluster=debug"]) == 0
    assert "follows from the amount" not in capsys.readouterr().err


@pytest.mark.slow
def test_step_by_step_it_is_the_same(words, capsys):
    assert main.main(["run", *words, "cluster=debug", "run.average=false", "forest=whole"]) == 0
    for verb in (["prepare"], ["seed"], ["branch", "expert=law"], ["train", "expert=law"]):
        assert main.main([*verb, *words, "forest=parts"]) == 0, capsys.readouterr().err
    assert main.main(["merge", *words, "expert=law", "forest=parts"]) == 0
    for name in ("seed", "law"):
        assert Forest("parts")[name].card.sha256 == Forest("whole")[name].card.sha256


def test_the_page_says_how_much_text_a_size_wants(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/choosing.md").read_text()
    for model in ("pico", "tiny", "125m", "350m", "750m", "1b3"):
        parameters = Costs.of(compose([f"model={model}", "data.vocab_size=8192"])).parameters
        text = proposal.TOKENS_EACH * parameters / MANY_EPOCHS * BYTES_PER_TOKEN / 1e6
        row = f"| `{model}` | {parameters / 1e6:,.1f} M | {text:,.0f} MB | {text / 2:,.0f} MB |"
        assert row in page
