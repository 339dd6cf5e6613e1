"""Instructions by language: an `instruct` expert of each of five languages, asked in all of them.

    python scripts/bench/instructions_by_language.py --forest experts/roots-0 --roots corpora/roots

--forest is one of experiment=roots. In a copy of it, each language's expert gets a branch that is
trained on the prompted data of scripts/build_instructions.py --language. Every such expert, and
each language's own expert without it, is asked --questions test questions (or all there are) of each
task in each language, by the likelihood of the choices, under the templates that are held out (of
the held-out task under two).

Rows: <out>/by-language.csv. Killed at any moment, the same command goes on; what stands in --out of
other settings is refused. Further words (data.vocab_size=4096) are those that the forest was grown
with.
"""

import argparse
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.report import ConsoleReporter
from btm.system import durable

sys.path.insert(0, str(Path(__file__).parents[1]))

import build_instructions
from bench.language_tables import Row, mean, write_csv
from bench.languages import require_settings
from suites.prompts_by_language import ASKED, tasks_in

ORDINALS = {1: "first", 4: "fourth"}
PRINTED = ConsoleReporter(sys.stderr)


@dataclass(frozen=True)
class Bench:
    """The folders of a run, and the settings of the forest and of the branches' training."""

    options: argparse.Namespace

    @property
    def forest(self) -> Forest:
        return Forest(self.options.out / "forest")

    def asked(self, language: str) -> Path:
        return Path(self.options.out / f"instructions-{language}")

    def config(self, *words: str) -> Config:
        """Compose the configuration of the forest's own text."""
        return compose(
            ["experiment=roots", f"forest={self.forest.root}", *self.options.words, *words]
        )

    def grow(self, language: str) -> None:
        """Branch the language's expert and train the branch on its prompted data, if need be."""
        name = f"instruct-{language}"
        if not self.asked(language).exists():
            words = ["--language", language, "--roots", str(self.options.roots)]
            words += ["--questions", str(max(400, self.options.questions))]
            build_instructions.main(["--out", str(self.asked(language)), *words])
        config = self.config(
            *("data=folder", f"data.root={self.asked(language) / 'instruct'}"),
            *(f"data.domain={name}", f"data.name={name}", "data.format=prompted"),
            *(f"data.out={self.options.out / 'data'}", "run.rounds=[]", "branch=argmax"),
            *(f"data.tokenizer={self.forest.tokenizer}", f"trainer.steps={self.options.steps}"),
        )
        if name in self.forest:
            return
        steps.prepare(config)
        if not self.forest.has_branch(name):
            steps.branch(config, name, name, among=[language])
        steps.train(config, name, PRINTED)
        steps.merge(config, name, PRINTED)


def rows(bench: Bench) -> Iterator[Row]:
    """Yield a row for each language that is asked in, task and template: accuracies by model."""
    languages = bench.options.languages
    models = [f"instruct-{language}" for language in languages]
    held_out = build_instructions.HELD_OUT
    for language in languages:
        tasks = [
            (task, number)
            for task in tasks_in(language)
            for number in ((held_out,) if task.trained else (0, held_out))
        ]
        folder = bench.asked(language) / "tasks"
        files = [(folder / f"{task.name}_{number}.yaml").resolve() for task, number in tasks]
        measured = steps.bench(
            bench.config(
                f"tasks=[{','.join(map(str, files))}]",
                f"bench.models=[{','.join([language, *models])}]",
                f"bench.limit={bench.options.questions}",
                f"eval.name={language}",
            )
        )
        found = {(row.model, row.task): row.chief for row in measured.measured}
        for task, number in tasks:
            row: Row = {"asked in": language, "task": task.name, "trained": task.trained}
            row["template"] = number + 1
            for called, model in {"own expert": language, **{m: m for m in models}}.items():
                chief = found[(model, f"{task.name}_{number}")]
                assert chief
                row[called] = chief.value
            yield row


def show(found: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: accuracies by task, the mean of the languages (least–most)."""
    yield "| task | own expert | its `instruct` branch | those of other languages |"
    yield "|---|---|---|---|"
    for task, template in dict.fromkeys((row["task"], row["template"]) for row in found):
        columns: tuple[list[Row], ...] = ([], [], [])
        for row in found:
            if (row["task"], row["template"]) != (task, template):
                continue
            own = f"instruct-{row['asked in']}"
            others = [row[key] for key in row if key.startswith("instruct-") and key != own]
            cells = (row["own expert"], row[own], statistics.mean(others))
            for column, value in zip(columns, cells, strict=True):
                column.append({"accuracy": value})
        said = " | ".join(mean(column, "accuracy") for column in columns)
        yield f"| {task}, {ORDINALS[template]} template | {said} |"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forest", type=Path, required=True)
    parser.add_argument("--roots", type=Path, default=Path("corpora/roots"))
    parser.add_argument("--out", type=Path, default=Path("bench-instructions-by-language"))
    parser.add_argument("--languages", nargs="+", choices=ASKED, default=list(ASKED))
    parser.add_argument("--steps", type=int, default=300, help="of each branch")
    parser.add_argument("--questions", type=int, default=200, help="of each task and template")
    options, further = parser.parse_known_args(words)
    options.words = further
    return options


def make(options: argparse.Namespace) -> None:
    """Make what is missing, and print the table."""
    if len(options.languages) < 2:
        raise UserError("--languages: wanted two or more, which are asked in each other")
    bench = Bench(options)
    copied, source = options.out / "forest", Forest(options.forest)
    asked = {key: getattr(options, key) for key in ("steps", "questions", "words")}
    asked["roots"] = str(options.roots.resolve())
    asked["experts"] = {name: source[name].card.sha256 for name in options.languages}
    require_settings(options.out, asked)
    if not copied.exists():
        with durable.publish_folder(durable.make_folder(options.out) / copied.name) as made:
            shutil.copytree(options.forest, made, dirs_exist_ok=True)
    for language in options.languages:
        bench.grow(language)
    found = list(rows(bench))
    write_csv(options.out / "by-language.csv", found)
    print(*show(found), sep="\n")


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"instructions_by_language: {error}") from None


if __name__ == "__main__":
    main()
