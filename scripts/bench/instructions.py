"""The prompted stage on a pretrained model: what an `instruct` expert answers on templates and
tasks that it was not trained on, and what averaging it back costs the domains.

    python scripts/smollm2.py
    python scripts/bench/instructions.py --model models/smollm2 --readers corpora/readers

--model is a forest's seed. A LoRA expert is trained on the prompted data of
scripts/build_instructions.py; averages of seed and expert are made at the weights of --averages.
The chosen one is that of the largest weight that costs none of the demo's domains more than
--allowed nats a token, on the valid splits. Seed, expert and chosen average are then asked
--questions test questions of each task, by the likelihood of the choices.

Rows: <out>/losses.csv (valid, and of the chosen average and the seed test) and
<out>/instructions.csv (test). Killed at any moment, the same command goes on; what stands in --out
of other settings is refused. Further words (trainer.steps=20) go to the expert's training.
"""

import argparse
import hashlib
import io
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.batches import windows
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm, weights
from btm.report import ConsoleReporter
from btm.report.benchmarks import Measured
from btm.system import durable
from btm.train.trainee import validate

sys.path.insert(0, str(Path(__file__).parents[1]))

import build_instructions
from bench.language_tables import Row, write_csv
from bench.languages import require_settings
from suites import json_lines

DOMAINS = tuple(build_instructions.KINDS)
WINDOW = 256
EXPERT = "instruct"
GUESSED = ("chance", "usual")  # what is right without reading: any choice, or the usual answer
PRINTED = ConsoleReporter(sys.stderr)


@dataclass(frozen=True)
class Bench:
    """The folders of a run, and the settings of the forest and of the expert's training."""

    options: argparse.Namespace

    @property
    def forest(self) -> Forest:
        return Forest(self.options.out / "forest")

    @property
    def asked(self) -> Path:
        return Path(self.options.out) / "instructions"

    def config(self, *words: str) -> Config:
        """Compose the configuration of the demo's text, which is measured."""
        return compose([*self._fixed(), "data=demo", "data.name=demo", *words])

    def training(self) -> Config:
        """Compose the configuration of the prompted data, which the expert is trained on."""
        return compose(
            [
                *self._fixed(),
                *("data=folder", f"data.root={self.asked / 'instruct'}", f"data.domain={EXPERT}"),
                *("data.name=instructions", "data.format=prompted", "branch=copy"),
                *("trainer.adapter=lora", "trainer.lora_rank=16", "trainer.lora_alpha=32"),
                *("trainer.lr=1e-3", "trainer.steps=800", f"trainer.seq_len={WINDOW}"),
                *("trainer.batch_size=8", "trainer.micro_batch_size=4", "trainer.precision=bf16"),
                *(
                    "trainer.checkpoint_every=10",
                    "trainer.valid_tokens=8192",
                    "score.max_tokens=8192",
                ),
                *self.options.words,
            ]
        )

    def _fixed(self) -> Iterator[str]:
        model = self.options.model.resolve()
        yield from (
            f"forest={self.options.out / 'forest'}",
            f"data.out={self.options.out / 'data'}",
        )
        yield from (f"data.tokenizer={model}", f"seed.from={model}")

    def grow(self) -> None:
        """Plant the forest of the model, and grow the expert, if need be."""
        if not self.asked.exists():
            words = ["--out", str(self.asked), "--readers", str(self.options.readers)]
            most = max(self.options.questions, self.options.held_out)
            build_instructions.main([*words, "--most", "500", "--questions", str(most)])
        training = self.training()
        for config in (self.config(), training):
            steps.prepare(config)
        steps.seed(self.config())
        if EXPERT not in self.forest:
            if not self.forest.has_branch(EXPERT):
                steps.branch(training, EXPERT, EXPERT)
            steps.train(training, EXPERT, PRINTED)
            steps.merge(training, EXPERT, PRINTED)

    def average(self, weight: float) -> str:
        """Return the name of the average with this weight of the expert, made if need be."""
        name = f"{EXPERT}-{round(100 * weight)}"
        words = (f"average.name={name}", "average.measure=false", "average.method=linear")
        config = self.config(*words)
        config.weights = {"seed": 1 - weight, EXPERT: weight}
        steps.average(config)
        return name

    def folder(self, model: str) -> Path:
        if model in self.forest:
            return self.forest[model].path
        return self.forest.paths.average(model).path

    def losses(self, model: str, split: str) -> dict[str, float]:
        """Return nats per token on the beginning of each domain's split, measured once."""
        folder, most = self.folder(model), WINDOW * self.options.windows
        file = self.options.out / "losses" / f"{weights.sha256(folder)}-{split}-{most}.json"
        if not file.exists():
            suite, loaded = steps.open_suite(self.config()), causal_lm.load_model(folder)
            found = {
                name: validate(loaded, windows(suite.shard(name, split), WINDOW, most), rows=4)
                for name in DOMAINS
            }
            durable.make_folder(file.parent)
            durable.write_json(file, found)
        read: dict[str, float] = json.loads(file.read_text())
        return read


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--readers", type=Path, default=Path("corpora/readers"))
    parser.add_argument("--out", type=Path, default=Path("bench-instructions"))
    parser.add_argument("--averages", type=float, nargs="+", default=[0.4, 0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--allowed", type=float, default=0.05, help="nats above the seed's loss")
    parser.add_argument("--windows", type=int, default=32, help=f"of {WINDOW} tokens, a domain")
    parser.add_argument("--questions", type=int, default=60, help="of each task that is trained on")
    parser.add_argument("--held-out", type=int, default=400, help="questions of each other task")
    options, further = parser.parse_known_args(words)
    options.words = further
    return options


def make(options: argparse.Namespace) -> None:
    """Make what is missing, and print the tables."""
    require_settings(options.out, settings(options))
    bench = Bench(options)
    bench.grow()
    ask(bench, ["seed", EXPERT, choose(bench)])


def settings(options: argparse.Namespace) -> Row:
    """Return the settings of a run: sha256 of the model, of the suite and of the scripts that ask,
    and the options.
    """
    manifest = options.readers / "manifest.json"
    if not manifest.is_file():
        raise build_instructions.missing(manifest, "readers", options.readers)
    readers = hashlib.sha256(manifest.read_bytes()).hexdigest()
    scripts = Path(build_instructions.__file__).parent
    asking = [scripts / "build_instructions.py", *sorted((scripts / "suites").glob("prompts*.py"))]
    prompts = hashlib.sha256(b"".join(path.read_bytes() for path in asking)).hexdigest()
    model = weights.sha256(options.model)
    keys = {key: getattr(options, key) for key in ("questions", "held_out", "words")}
    return {"model": model, "readers": readers, "prompts": prompts, **keys}


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"instructions: {error}") from None


def choose(bench: Bench) -> str:
    """Measure all averages on valid text; return the chosen one's name, measured on test text."""
    names = {bench.average(weight): weight for weight in bench.options.averages}
    if len(names) < len(bench.options.averages):
        raise UserError("--averages: two have the same percent")
    of = {"seed": 0.0, **names, EXPERT: 1.0}
    rows = over_seed(bench, of, "valid")
    averages = [row for row in rows if row["model"] in names]
    chosen = of_largest_weight(averages, bench.options.allowed)
    rows += over_seed(bench, {name: of[name] for name in ("seed", chosen)}, "test")
    write_csv(bench.options.out / "losses.csv", rows)
    return chosen


def of_largest_weight(rows: Sequence[Row], allowed: float) -> str:
    """Return the model of the largest weight that costs no domain more than `allowed` nats a token.

    Raises:
        UserError: there is none
    """
    near = [row for row in rows if row["most over"] <= allowed]
    if not near:
        raise UserError("no average stays near the seed; try smaller --averages")
    return str(max(near, key=lambda row: row["weight"])["model"])


def over_seed(bench: Bench, models: dict[str, float], split: str) -> list[Row]:
    """Return a row for each model: nats per token by domain, and how far they are over the seed's,
    in the mean and at most.

    The first model is the seed.
    """
    rows: list[Row] = []
    for name, weight in models.items():
        found = bench.losses(name, split)
        rows.append({"split": split, "model": name, "weight": weight, **found})
        rows[-1] |= distance(found, rows[0])
        print(
            f"{name}, {split}: {rows[-1]['over seed']:+.3f} nats over the seed in the mean of the "
            f"domains, {rows[-1]['most over']:+.3f} at most",
            flush=True,
        )
    return rows


def distance(losses: Mapping[str, float], seed: Row) -> Row:
    """Return the mean of the domains' losses, and how far they are over the seed's, in the mean and
    at most; all in nats a token.
    """
    over = [losses[domain] - seed[domain] for domain in DOMAINS]
    return {
        "mean": statistics.mean(losses.values()),
        "over seed": statistics.mean(over),
        "most over": max(over),
    }


def ask(bench: Bench, models: list[str]) -> None:
    """Ask the held-out templates of all tasks, and both of the tasks that are held out."""
    every, held_out = build_instructions.DOZENS, build_instructions.HELD_OUT
    asked = [(task, n) for task in every for n in ((held_out,) if task.trained else (0, held_out))]
    named = [name if name in bench.forest else f"averages/{name}" for name in models]
    found: dict[tuple[str, str], Measured] = {}
    for trained, most in ((False, bench.options.held_out), (True, bench.options.questions)):
        files = [
            bench.asked / "tasks" / f"{task.name}_{number}.yaml"
            for task, number in asked
            if task.trained is trained
        ]
        measured = steps.bench(
            bench.config(
                f"tasks=[{','.join(str(file.resolve()) for file in files)}]",
                f"bench.models=[{','.join(named)}]",
                f"bench.limit={most}",
                "bench.batch_size=8",
                "load.dtype=bf16",
            ),
            PRINTED,
        )
        found |= {(row.model, row.task): row for row in measured.measured}
    trained_rows = json_lines.read(bench.asked / "instruct" / "train.jsonl")
    answers = Counter(row["completion"].strip() for row in trained_rows)
    rows: list[Row] = []
    for task, number in asked:
        most = bench.options.questions if task.trained else bench.options.held_out
        questions = json_lines.read(bench.asked / "tasks" / f"{task.name}_{number}.jsonl")[:most]
        row: Row = {"task": task.name, "trained": task.trained, "template": number + 1}
        row["questions"] = len(questions)
        row["chance"] = statistics.mean(1 / len(each["choices"]) for each in questions)
        row["usual"] = statistics.mean(usual(each, answers) for each in questions)
        for model, name in zip(models, named, strict=True):
            of_model = found[(name, f"{task.name}_{number}")]
            assert of_model.chief and of_model.documents == len(questions)
            row[model] = of_model.chief.value
        rows.append(row)
    rows += [*means(rows, models)]
    write_csv(bench.options.out / "instructions.csv", rows)
    draw(rows, models, bench.options.out / "instructions.png")
    print(*show(rows, models), sep="\n")


def means(rows: Sequence[Row], models: Sequence[str]) -> Iterator[Row]:
    """Yield the means of each held-out task, of all held-out templates, and of the held-out tasks."""
    held_out = [row for row in rows if not row["trained"]]
    names = dict.fromkeys(row["task"] for row in held_out)
    of_task = {name: [row for row in held_out if row["task"] == name] for name in names}
    of_all = [row for row in rows if row["trained"]]
    for name, of in (*of_task.items(), ("mean", of_all), ("mean", held_out)):
        yield {
            "task": name,
            "trained": of[0]["trained"],
            "template": "mean",
            "questions": sum(row["questions"] for row in of),
            **{key: statistics.mean(row[key] for row in of) for key in (*GUESSED, *models)},
        }


def usual(question: Row, answers: Counter[str]) -> float:
    """Return the chance of the right choice among those that most trained rows are answered with."""
    choices: list[str] = question["choices"]
    most = max(answers[each] for each in choices)
    best = [each for each in choices if answers[each] == most]
    return (choices[question["answer"]] in best) / len(best)


def show(rows: Sequence[Row], models: Sequence[str]) -> Iterator[str]:
    """Yield a table of Markdown: the held-out tasks, and the mean of the others."""
    yield f"| task | chance | usual answer | {' | '.join(models)} |"
    yield "|---" * (len(models) + 3) + "|"
    called_template = {1: "first template", 4: "fourth template", "mean": "both"}
    for row in rows:
        called = f"{row['task']}, {called_template[row['template']]}"
        if row["task"] == "mean":
            called = "mean, held-out templates" if row["trained"] else "mean, held-out tasks"
        elif row["trained"]:
            continue
        yield f"| {called} | {' | '.join(f'{row[key]:.3f}' for key in (*GUESSED, *models))} |"


def draw(rows: Sequence[Row], models: Sequence[str], path: Path) -> None:
    """Draw the accuracy of each model by task, held-out tasks on top, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    of = [row for row in rows if row["template"] != "mean"]
    of.sort(key=lambda row: (not row["trained"], row[EXPERT] - row["seed"]))
    figure = Figure(figsize=(8, 0.2 * len(of) + 1.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = range(len(of))
    axes.plot([row["chance"] for row in of], places, "|", ms=9, color="#a0aec0", label="chance")
    for model, colour in zip(models, ("#718096", "#dd6b20", "#3182ce"), strict=True):
        axes.plot([row[model] for row in of], places, "o", ms=5, color=colour, label=model)
    called = [f"{row['task']}, template {row['template']}" for row in of]
    axes.set_yticks(places, called, fontsize=7)
    trained = sum(row["trained"] for row in of)
    axes.axhline(trained - 0.5, color="#4a5568", lw=0.8)
    axes.annotate(
        "held-out tasks", (0.99, trained - 0.3), xycoords=("axes fraction", "data"), ha="right"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.7, len(of) - 0.3)
    axes.set_xlabel("accuracy by the likelihood of the choices")
    axes.grid(axis="x", color="#e2e8f0")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with durable.publish_file(path) as handle:
        handle.write(buffer.getvalue())


if __name__ == "__main__":
    main()
