"""`btm bench`: its table, its file, going on where it was stopped, and what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from btm import steps
from btm.cli import lm_eval as command
from btm.cli.compose import compose
from btm.cli.main import main
from btm.errors import UserError
from btm.forest import Forest
from btm.report import benchmarks
from btm.report.progress import Lines
from btm.steps.bench import tasks

pytestmark = pytest.mark.usefixtures("lm_eval")
FEW = ["bench.limit=2", "tasks=[btm_rolling,btm_order]", "trainer.device=cpu"]
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: [" yes", " no"]
doc_to_target: a
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


@pytest.fixture
def mine(tmp_path):
    """A task of one's own, as a YAML file and its data."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [{"q": f"Is {i} even?", "a": i % 2} for i in range(6)]
    data = folder / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(TASK % json.dumps(str(data)))
    return folder


def spoken(words, capsys):
    """The exit code of a command, its output, and the one line of its error."""
    code = main(["bench", *words])
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()[-1] if err.strip() else ""


def test_a_row_a_model_and_what_stands_is_not_asked_again(copy, monkeypatch):
    config = copy("bench.models=[forest,bible]", *FEW)
    found = steps.bench(config)
    assert [(row.model, row.task) for row in found.measured] == [
        *(("forest", task) for task in ("btm_rolling", "btm_order")),
        *(("bible", task) for task in ("btm_rolling", "btm_order")),
    ]
    forest = Forest(config.forest_root)
    file = steps.bench_file(config)
    assert file == forest.paths.evals / "forest-bench.json"
    rows = json.loads(file.read_text())["rows"]
    ensemble = next(row for row in rows if row["model"] == "forest")
    assert ensemble["members"] == {elm.name: elm.card.sha256 for elm in forest.experts()}
    assert ensemble["rule"]["rule"] == "gated" and sum(ensemble["weights"].values()) == 1
    assert ensemble["settings"]["limit"] == 2 and ensemble["settings"]["context"] == 1024
    assert all(len(row["identity"]) == len(row["text_sha256"]) == 64 for row in rows)
    lines = benchmarks.table(found.measured)
    assert list(lines[0]) == ["model", "kind", "btm_rolling bits_per_byte ↓", "btm_order acc ↑"]
    assert [line["kind"] for line in lines] == ["ensemble", "ELM"]
    before = file.read_bytes()
    monkeypatch.setattr(tasks, "run", None)  # it would fail
    again = steps.bench(config)
    assert again.measured == found.measured and file.read_bytes() == before


def test_it_goes_on_after_a_stop_and_asks_what_changed_alone(copy, monkeypatch):
    asked, run = [], tasks.run

    def counted(unit, model, bench):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((model.subject.name, unit.name))
        return run(unit, model, bench)

    monkeypatch.setattr(tasks, "run", counted)
    config = copy("bench.models=[bible,forest:simple]", *FEW)
    with pytest.raises(KeyboardInterrupt):
        steps.bench(config)
    assert asked == [
        ("bible", "btm_rolling"),
        ("bible", "btm_order"),
        ("forest:simple", "btm_rolling"),
    ]
    assert [plan.what for plan in steps.plan_of_bench(config)] == [
        "nothing: it stands there",
        "1 of 2 tasks, requests: btm_order 4",
    ]
    asked.clear()
    found = steps.bench(config)
    assert asked == [("forest:simple", "btm_order")] and len(found.measured) == 4
    asked.clear()
    shorter = copy_with(config, "bench.models=[bible]", *FEW, "bench.context=512")
    assert steps.bench(shorter).measured[0].settings["context"] == 512
    assert asked == [("bible", "btm_rolling"), ("bible", "btm_order")]
    rounded = copy_with(config, "bench.models=[bible]", *FEW, "load.dtype=bf16")
    assert "2 of 2 tasks" in steps.plan_of_bench(rounded)[0].what
    rows = json.loads(steps.bench_file(config).read_text())["rows"]
    assert sorted((row["model"], row["task"]) for row in rows) == sorted(
        (model, task)
        for model in ("bible", "forest:simple")
        for task in ("btm_rolling", "btm_order")
    )


def copy_with(config, *words):
    return compose(
        [
            f"forest={config.forest_root}",
            f"data.out={config.data.out}",
            f"data.name={config.data.name}",
            *words,
        ],
        "bench",
    )


def test_a_task_of_ones_own_from_the_command_line(copy, mine, capsys):
    words = [f"forest={copy().forest_root}", "trainer.device=cpu", f"tasks=[{mine}/mine.yaml]"]
    code, out, err = spoken([*words, "--json"], capsys)
    rows = json.loads(out)
    assert code == 0, err
    assert [row["model"] for row in rows] == ["forest", "bible", "code_python", "speeches"]
    assert rows[0]["documents"] == 6 and rows[0]["requests"] == 12
    assert [m["name"] for m in rows[0]["metrics"]["mine"]] == ["acc", "acc_norm"]
    code, out, _ = spoken([*words, "bench.models=[averages/uniform]", "eval.name=more"], capsys)
    assert code == 0 and "mine acc ↑" in out and "more-bench.json" in out
    by_name = [*words[:2], "tasks=[mine]", f"bench.include=[{mine}]", "bench.few_shot=1"]
    code, out, _ = spoken([*by_name, "bench.models=[bible]", "--json"], capsys)
    (row,) = json.loads(out)
    assert code == 0 and row["settings"]["few_shot"] == 1
    assert row["text_sha256"] != rows[1]["text_sha256"]


@pytest.mark.usefixtures("few_files")
def test_a_group_is_one_row_with_its_own_number_and_a_tag_is_its_tasks(copy, mine):
    one = (mine / "mine.yaml").read_text()
    (mine / "two.yaml").write_text(one.replace("task: mine", "task: two\ntag: pair_of_tag"))
    group = "group: both\ntask: [mine, two]\naggregate_metric_list: [{metric: acc}]\n"
    (mine / "both.yaml").write_text(group)
    words = [f"bench.include=[{mine}]", "bench.models=[bible]", "bench.limit=4"]
    config = copy("tasks=[both,pair_of_tag]", *words)
    whole, tagged = steps.bench(config).measured
    assert (whole.task, tagged.task) == ("both", "two")
    assert set(whole.metrics) == {"both", "mine", "two"} and whole.requests == 16
    assert whole.chief.name == "acc" and whole.chief.value == whole.metrics["mine"][0].value


@pytest.mark.usefixtures("few_files")
def test_mistakes_are_told_in_a_line_and_write_nothing(copy, mine, capsys):
    words = [f"forest={copy().forest_root}", "trainer.device=cpu"]
    evals = Path(copy().forest_root) / "evals"
    before = sorted(evals.rglob("*"))
    wrong = mine / "wrong.yaml"
    wrong.write_text("task: [")
    unsafe = mine / "unsafe.yaml"
    unsafe.write_text((mine / "mine.yaml").read_text() + "unsafe_code: true\n")
    absent = mine / "absent.yaml"
    absent.write_text("task: a\ndataset_path: nobody/nothing\noutput_type: loglikelihood\n")
    for given, told in {
        "tasks=[btm_oder]": "no task 'btm_oder' (did you mean 'btm_order'?)",
        f"tasks=[{mine}/none.yaml]": "none.yaml: no such file; wanted the YAML file of a task",
        f"tasks=[{wrong}]": "wrong.yaml: it does not load: ",
        f"tasks=[{unsafe}]": "it runs the code that a model writes (unsafe_code)",
        f"tasks=[{absent}]": "its data set is not on this machine",
        "tasks=[btm,btm]": "a name stands there twice",
        "bench.include=[nowhere]": "bench.include=nowhere: no such folder",
        "bench.models=[bibel]": "no model 'bibel'",
        "bench.models=[forest:bays]": "no rule 'bays' in bench.models=[forest:bays] (did you mean",
        "bench.models=[forest:router]": "no router in",
        "bench.context=2048": "bench.context=2048: bible has positions for 1024 tokens",
        "bench.limit=0": "bench.limit=0: wanted 1 or more",
        "bench.few_shot=-1": "bench.few_shot=-1: wanted 0 or more",
        "eval.domains=[nowhere]": "no domain 'nowhere'",
        "models=[bible]": "bench.models=[NAME]",
        "eval.split=valid": "eval.split",
    }.items():
        code, out, err = spoken([*words, given], capsys)
        assert code == 2 and told in err and not out, (given, err)
    for given, told in [
        (["domain=bible", "bench.models=[bible]"], "domain has no effect here"),
        (["eval.domains=[bible]", f"tasks=[{mine}/mine.yaml]"], "eval.domains has no effect here"),
    ]:
        code, _, err = spoken([*words, *given], capsys)
        assert code == 2 and told in err, err
    assert sorted(evals.rglob("*")) == before


def test_text_that_a_model_was_trained_on_is_refused(copy):
    config = copy("bench.models=[bible]", *FEW)
    data = Path(config.data.out) / config.data.name
    own = Path(config.forest_root).parent / "data" / config.data.name
    shutil.copytree(data, own)
    for ending in ("bin", "idx", "docs"):
        shutil.copy(own / f"bible/train.{ending}", own / f"bible/test.{ending}")
    meta = json.loads((own / "bible/meta.json").read_text())
    meta["splits"]["test"] = meta["splits"]["train"]
    (own / "bible/meta.json").write_text(json.dumps(meta))
    config.data.out = str(own.parent)
    with pytest.raises(UserError, match="bible"):
        steps.bench(config)
    assert not steps.bench_file(config).exists()


def test_progress_and_the_dry_run(copy, capsys):
    config, said = copy("bench.models=[bible]", *FEW), Lines()
    steps.bench(config, said)
    assert "bible on btm_order: 4 requests" in said.said
    code, out, _ = spoken(["--dry-run", f"forest={config.forest_root}", *FEW], capsys)
    assert code == 0 and "forest" in out and "2 of 2 tasks, requests: btm_rolling 2" in out


@pytest.mark.usefixtures("few_files")
def test_lm_evals_own_command_has_the_model(copy, mine, tmp_path, monkeypatch):
    import lm_eval.evaluator as theirs

    monkeypatch.setattr(theirs, "add_env_info", lambda results: None)  # asks pip, for seconds
    config, out = copy(), tmp_path / "out"
    args = f"forest={config.forest_root},model=forest:bayes,trainer.device=cpu"
    words = ["--model", "btm", "--model_args", args, "--output_path", str(out)]
    monkeypatch.setattr(sys, "argv", ["btm-lm-eval", *words, "--tasks", f"{mine}/mine.yaml"])
    with tasks.harness(download=False), tasks.silence():
        assert command.main() == 0
    (file,) = out.rglob("results_*.json")
    found = json.loads(file.read_text())["results"]["mine"]["acc,none"]
    ours = copy_with(config, f"tasks=[{mine}/mine.yaml]", "bench.models=[forest:bayes]")
    assert steps.bench(ours).measured[0].chief.value == pytest.approx(found)


def test_of_which_a_wrong_word_is_told_in_a_line(copy, capsys, monkeypatch, mine):
    from lm_eval.api.registry import get_model

    root = copy().forest_root
    command.register()
    made = get_model("btm").create_from_arg_obj(
        {"forest": root, "model": "bible"}, {"batch_size": "2", "device": "cuda:0"}
    )
    assert made.settings.batch_size == 2 and made.subject.name == "bible"
    with pytest.raises(UserError, match="no model 'bibel'"):
        get_model("btm").create_from_arg_obj({"forest": root, "model": "bibel"})
    with pytest.raises(UserError, match=r"does not read expert=bible: .*bench\.models=\[NAME\]"):
        get_model("btm").create_from_arg_string(f"forest={root},expert=bible")
