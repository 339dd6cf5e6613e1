"""btm report and btm watch."""

import json
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from btm.cli import main
from btm.cli.compose import compose
from btm.cli.verbs import grown_again
from btm.forest import Forest, removal, settings


def test_the_command_of_a_report_has_the_settings_that_the_forest_records(grown, tmp_path):
    root = Path(grown[0].forest_root)
    found = grown_again.rebuilding(root)
    program, verb, forest, *words = shlex.split(found.command)
    assert (program, verb, forest) == ("btm", "run", f"forest={root}")
    config = asdict(compose([f"forest={tmp_path / 'new'}", *words], "run"))
    recorded = settings.read(root)
    for section, values in recorded.values.items():
        if section == "branch":
            assert config[section] == values
            continue
        assert {key: config[section][key] for key in values} == values, section
    [text] = settings.read_suites(root).values()
    assert {key: config["data"][key] for key in text.data} == text.data


def test_what_the_commands_do_not_make_is_named(copy):
    root = Path(copy().forest_root)
    for name in ("law", "tales"):
        values = json.loads((root / "elms/bible/card.json").read_bytes()) | {"name": name}
        file = root / "elms" / name / "card.json"
        file.parent.mkdir()
        file.write_text(json.dumps(values | {"source": "models/law-lm" if name == "law" else ""}))
    file = root / "averages" / "two" / "card.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(values | {"name": "two"}))
    dense = root.with_name(f"{root.name}-dense")
    dense.mkdir()
    shutil.copy(root / "forest.json", dense)
    removal.remove(Forest(root), "speeches")
    notes = "\n".join(grown_again.rebuilding(root).notes)
    for said in (
        "Removed since: speeches.",
        "Imported, by btm import: law (from models/law-lm).",
        "Stand here by other commands: tales.",
        "by btm average:",
        "averages/two",
        f"{root.name}-dense (baseline=dense)",
    ):
        assert said in notes
    assert "bible" not in notes and "code_python" not in notes


def test_a_seed_from_elsewhere_is_named_as_a_command_line_names_it(grown):
    values = settings.read(Path(grown[0].forest_root)).values
    values = values | {"seed": values["seed"] | {"source": "models/base"}}
    assert "seed.from=models/base" in grown_again.words_of(values, {"name": "mine"})


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        ([], "[]"),
        (["a", "b c", "null"], "[a,'b c','null']"),
        ({"x": 0.5, "o'k": [1]}, r"{x: 0.5,'o\'k': [1]}"),
    ],
)
def test_values_are_written_as_a_command_line_reads_them(value, written):
    assert grown_again._written(value) == written


def test_reports_and_watching_of_nothing_are_refused_in_a_line(tmp_path, capsys):
    assert main.main(["report", f"forest={tmp_path}"]) == 2
    assert main.main(["watch", f"forest={tmp_path}"]) == 2
    assert main.main(["report", f"forest={tmp_path}", "name=x"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "no cycle has run" in said[1] and "eval.name=NAME" in said[2]


def test_a_report_that_was_planned_is_not_written(grown, capsys):
    root = Path(grown[0].forest_root)
    assert main.main(["report", f"forest={root}", "--dry-run"]) == 0
    assert "forest-report.html" in capsys.readouterr().out
    assert not (root / "evals" / "forest-report.html").exists()
