"""Languages by way of their families: experts in rounds, along a tree that is given or found.

    python scripts/bench/language_trees.py --text corpora/roots --languages es fr pt hi bn ta te ny sw \\
        --late ca mr kn zu --seeds 0 1 2

A seed is trained on all --languages. In the first round each family (FAMILIES in
scripts/suites/languages.py, of CLDR) gets an expert, on text of all its languages that comes after
the --most bytes which their own experts read. In the second each language gets one, and in the last
each of --late, which neither seed nor tokenizer has read, with as much text. The trees say what these
two rounds branch from:

family: the expert of the language's own family;
posterior: what branch=posterior finds among the experts there are (X-ELM, arXiv 2401.10440, lets one
  of them be the parent; here it is their weighted average): families, and for a late language the
  languages too;
other: the expert of the next family, a wrong tree;
flat: the seed. Its languages have longer trainings, so that all trees have as many steps in all.

Everything is measured on test text, in bits per UTF-8 byte: each language's own expert (own), and
the gated ensemble of the experts of all languages there are by then, late ones for late ones alone
(forest). Rows are written to <out>/trees.csv, tables printed. Killed at any moment, the same command
goes on.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from btm import steps
from btm.config.schema import Config
from btm.data.documents import read
from btm.errors import UserError
from btm.forest import Forest
from btm.report import quiet
from btm.system import durable

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.language_tables import Row, show_parents, show_trees, write_csv
from bench.languages import Bench, bits, cut, ensemble_bits, parser_of, require_same, write_split
from suites.languages import family_of

TREES = ("family", "posterior", "other", "flat")


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"language_trees: {error}") from None


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--trees", nargs="+", choices=TREES, default=list(TREES))
    options, options_of_btm = parser.parse_known_args(words)
    options.words = options_of_btm
    return options


def make(options: argparse.Namespace) -> None:
    """Grow what is missing of every tree, measure it and print the tables."""
    require_same(options)
    rows: list[Row] = []
    for seed in options.seeds:
        for tree in options.trees:
            rows += Tree(Bench(options, seed), tree).rows()
            write_csv(options.out / "trees.csv", rows)
            print(f"seed {seed}, {tree}: done", file=sys.stderr, flush=True)
    print(*show_trees(rows, options.late), "", *show_parents(rows), sep="\n")


class Tree:
    """A forest of one random seed, along one tree."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.options: argparse.Namespace = bench.options
        self.families = list(dict.fromkeys(map(family_of, self.options.languages)))
        lone = [each for each in self.options.late if family_of(each) not in self.families]
        if lone:
            raise UserError(f"{', '.join(lone)}: no language of its family is in --languages")

    def config(self, text: str, *words: str, of: str | None = None) -> Config:
        """Compose the configuration of the forest with the text <out>/<text>."""
        out = self.options.out
        forest = out / "trees" / f"{self.bench.seed}-{of or self.name}"
        own = [f"data.root={out / text}", f"data.name={text}", f"forest={forest}"]
        return self.bench.config(*(own if text != "text" else own[-1:]), *words)

    def rows(self) -> Iterator[Row]:
        """Yield a row for each language."""
        grown = self._grown()
        forest, config = Forest(grown[0][1].forest_root), self.bench.tested(grown[0][1])
        present: list[str] = []
        for names, round_config in grown:
            present += names
            suite, members = steps.prepare(round_config), [forest[name] for name in present]
            for name in names:
                test, valid = suite.shard(name, "test"), suite.shard(name, "valid")
                parents = forest[name].card.parents.items()
                yield {
                    "seed": self.bench.seed,
                    "tree": self.name,
                    "language": name,
                    "parents": " ".join(f"{n}:{p.weight:.2f}" for n, p in parents),
                    "test_bytes": test.head(self.options.test)[1],
                    "own": bits(config, forest, forest[name].path, test),
                    "forest": ensemble_bits(self.bench, round_config, forest, test, valid, members),
                }

    def _grown(self) -> list[tuple[list[str], Config]]:
        """Grow both rounds; return the languages of each and their configuration."""
        options = self.options
        self._base()
        more = options.steps * (1 + len(self.families) / len(options.languages))
        longer = [f"trainer.steps={round(more)}"] if self.name == "flat" else []
        cut(options, "late", options.late)
        rounds = [
            (options.languages, self.config("text", *longer)),
            (options.late, self.config("late")),
        ]
        there = list(self.families)
        for names, config in rounds:
            steps.prepare(config)
            for name in names:
                among = there if self.name == "posterior" else [self._parent(name)]
                chosen = replace(config, parent=among[0])
                if self.name == "posterior":
                    chosen = replace(config, branch="posterior")
                steps.grow_expert(chosen, name, among, quiet)
            there += names
        return rounds

    def _parent(self, language: str) -> str:
        """Name the ELM that a language is a copy of."""
        if self.name == "flat":
            return "seed"
        step = 1 if self.name == "other" else 0
        at = self.families.index(family_of(language)) + step
        return self.families[at % len(self.families)]

    def _base(self) -> None:
        """Make the forest as a copy of one with the seed and the families, which all trees share."""
        place = Path(self.config("text").forest_root)
        if place.exists():
            return
        cut(self.options, "text", self.options.languages)
        self._write_families()
        config = self.config("text", of="base")
        steps.prepare(config)
        steps.seed(config)
        config = self.config("families", of="base")
        steps.prepare(config)
        for family in self.families:
            steps.grow_expert(config, family, ["seed"], quiet)
        with durable.publish_folder(place) as made:
            shutil.copytree(config.forest_root, made, dirs_exist_ok=True)

    def _write_families(self) -> None:
        """Write <out>/families: of each language what comes after its own text, up to --most."""
        folder, options = self.options.out / "families", self.options
        if folder.exists():
            return
        with durable.publish_folder(folder) as made:
            for family in self.families:
                own = [each for each in options.languages if family_of(each) == family]
                for split in ("train", "valid", "test"):
                    most = options.most if split == "train" else options.most // 10
                    write_split(made / family, split, _after(options.text, own, split, most))


def _after(text: Path, languages: Sequence[str], split: str, most: int) -> Iterator[str]:
    """Yield, of each language, whole documents after the first `most` bytes, until there are as
    many more.
    """
    for language in languages:
        passed = taken = 0
        for document in read(next((text / language).glob(f"{split}.jsonl*")), "text"):
            if passed < most:
                passed += len(document.encode())
            elif taken < most:
                taken += len(document.encode())
                yield document


if __name__ == "__main__":
    main()
