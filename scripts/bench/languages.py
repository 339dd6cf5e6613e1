"""Forests of languages at the smallest size: low-resource languages branched from them, the forest
beside one dense LM of as many training tokens, and its posterior as language identification.

    python scripts/bench/languages.py --text corpora/roots --part branches --seeds 0 1 2
    python scripts/bench/languages.py --text corpora/roots --part forest identify

A forest has a seed on all --languages, then an expert for each of them; the seed phase has as many
steps as all experts together. Everything of a table is measured in bits per UTF-8 byte of test text,
each window begun anew.

branches: a language of --late, which neither seed nor tokenizer has read, gets an expert by --steps
  steps on --sizes bytes of its text: from random parameters (scratch), from a copy of the seed, or
  from the experts by branch=argmax, posterior and uniform. All see as many tokens; 0 bytes is all.
forest: the gated ensemble, each language's own expert, the seed, the uniform average of all experts
  and --baselines, by language.
identify: the expert of the greatest posterior, from a uniform prior, after the first --tokens tokens
  of a window, beside a linear model of character n-grams (scikit-learn) that is trained on as many
  windows of each language as its expert has read.

The forest of a random seed is shared by the parts. Killed at any moment, the same command goes on:
what stands in --out is not made again, and other settings than those it was made with are refused.
Further words (model.config.hidden_size=32) go to every configuration. Rows are written to
<out>/<part>.csv.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from btm import steps
from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data.documents import read
from btm.data.shards import Shard
from btm.ensemble import evaluate, posterior
from btm.ensemble import score as scoring
from btm.ensemble.text import Text
from btm.errors import UserError
from btm.forest import ELM, Forest
from btm.models import weights
from btm.report import quiet
from btm.steps import score_cache
from btm.steps.baselines import ready, run
from btm.system import durable

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.language_tables import (
    METHODS,
    Row,
    show_branches,
    show_forest,
    show_identify,
    write_csv,
)

SEQUENCES, SEQ_LEN = 4, 128  # of a batch: 512 tokens a step
LANGUAGES = ("es", "fr", "id", "hi", "ar", "zh-hans", "ny", "sw")
LATE = ("zu", "ca")
SIZES = (8_192, 32_768, 131_072, 0)
UNTRAINED = ("seed.steps=0", "seed.sampling=null")
AVERAGE = "uniform"
SHARED = (
    "text",
    "languages",
    "steps",
    "vocab_size",
    "most",
    "held_out",
    "words",
)  # by all of --out


@dataclass(frozen=True)
class Bench:
    """Where all is, and how it is trained, under one random seed."""

    options: argparse.Namespace
    seed: int

    def config(self, *words: str) -> Config:
        """Compose the configuration of the forest's own cycle, with further words."""
        options, out = self.options, self.options.out
        fixed = [
            *("data=folder", f"data.root={out / 'text'}", "data.name=languages"),
            *(f"data.out={out / 'data'}", f"data.vocab_size={options.vocab_size}"),
            *("data.sampling=0.3", "data.workers=1", "model=bloom"),
            *("model.config.hidden_size=64", "model.config.n_layer=2", "model.config.n_head=2"),
            *(f"forest={out / 'forests' / str(self.seed)}", f"trainer.seed={self.seed}"),
            *(f"trainer.batch_size={SEQUENCES}", f"trainer.seq_len={SEQ_LEN}"),
            *(f"trainer.steps={options.steps}", "seed.sampling=0.3"),
            *("trainer.threads=1", "trainer.checkpoint_every=10000", "trainer.compile=never"),
            *("trainer.log_every=1000", "trainer.valid_tokens=1024"),
            *("branch=copy", "run.average=false", "merge.force=true", "ensemble.carry=window"),
            f"score.max_tokens={options.held_out}",
        ]
        begun = f"seed.steps={len(options.languages) * options.steps}"
        return compose([*fixed, begun, *options.words, *words])

    def tested(self, config: Config) -> Config:
        """Return `config` with as many tokens as are scored of test text."""
        return replace(config, score=replace(config.score, max_tokens=self.options.test))

    def grown(self) -> tuple[Config, Forest]:
        """Return the forest of all languages, grown if need be, and its configuration."""
        cut(self.options, "text", self.options.languages, 0)
        config = self.config()
        steps.prepare(config)
        steps.seed(config)
        for language in self.options.languages:
            steps.grow_expert(config, language, [config.seed.name], quiet)
        return config, Forest(config.forest_root)

    def random(self) -> Forest:
        """Return a forest that is a seed of random parameters alone."""
        root = self.options.out / "forests" / f"{self.seed}-scratch"
        config = self.config(f"forest={root}", *UNTRAINED)
        steps.seed(config)
        return Forest(root)


def main() -> None:
    try:
        make(parse())
    except UserError as error:
        raise SystemExit(f"languages: {error}") from None


def make(options: argparse.Namespace) -> None:
    """Make what is missing of each part and print its table."""
    require_same(options)
    for part in options.part:
        rows: list[Row] = []
        for seed in options.seeds:
            for row in PARTS[part](Bench(options, seed)):
                rows.append(row)
                write_csv(options.out / f"{part}.csv", rows)
        print(*SHOWN[part](rows), sep="\n")


def require_same(options: argparse.Namespace) -> None:
    """Record the settings in --out; `UserError` where it was made with others."""
    asked = {key: getattr(options, key) for key in SHARED} | {"text": str(options.text.resolve())}
    require_settings(options.out, asked)


def require_settings(out: Path, asked: Row) -> None:
    """Record settings in <out>/settings.json; `UserError` where others stand there."""
    file = durable.make_folder(out) / "settings.json"
    if not file.exists():
        durable.write_json(file, asked)
    stood = json.loads(file.read_text())
    for key, value in asked.items():
        if stood.get(key) != value:
            raise UserError(f"{out} was made with {key} {stood.get(key)}, not {value}")


def cut(options: argparse.Namespace, name: str, languages: Sequence[str], size: int = 0) -> None:
    """Write the text of `languages` into <out>/<name>: `size` bytes of train text, or --most.

    The last document is cut, at a character. Held-out text is the same for every size.
    """
    folder = options.out / name
    if folder.exists():
        return
    with durable.publish_folder(folder) as made:
        for language in languages:
            for split in ("train", "valid", "test"):
                source = next(iter(sorted((options.text / language).glob(f"{split}.jsonl*"))), None)
                if source is None:
                    raise UserError(f"{options.text / language} has no {split}.jsonl")
                most = (size or options.most) if split == "train" else options.most // 10
                write_split(made / language, split, head(source, most))


def write_split(folder: Path, split: str, texts: Iterable[str]) -> None:
    """Write documents as JSON lines into <folder>/<split>.jsonl."""
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    (folder / f"{split}.jsonl").write_text("".join(lines))


def head(source: Path, most: int) -> Iterator[str]:
    """Yield the first documents of a file, `most` bytes of UTF-8 in all."""
    for text in read(source, "text"):
        data = text.encode()[:most]
        if not data:
            return
        most -= len(data)
        yield data.decode(errors="ignore")


def branches(bench: Bench) -> Iterator[Row]:
    """Yield a row for each late language, size and method."""
    _, forest = bench.grown()
    for size in bench.options.sizes:
        for method in bench.options.methods:
            root = bench.random() if method == "scratch" else forest
            for language in bench.options.late:
                yield kept(bench, f"{language}-{size}-{method}", root, size, method, language)


def kept(bench: Bench, name: str, root: Forest, size: int, method: str, language: str) -> Row:
    """Return the row of one cell, made if need be."""
    file = bench.options.out / "cells" / f"{bench.seed}-{name}-{bench.options.test}.json"
    if not file.exists():
        durable.make_folder(file.parent)
        begun = grow_late(bench, name, root, size, method, language)
        durable.write_json(file, begun)
        print(f"{file.stem}: {begun['bits_per_byte']:.3f} bits/byte", file=sys.stderr, flush=True)
    row: Row = json.loads(file.read_text())
    return row


def grow_late(bench: Bench, name: str, root: Forest, size: int, method: str, language: str) -> Row:
    """Branch and train a late language's expert and measure it on test text."""
    text = f"{language}-{size or 'all'}"
    cut(bench.options, text, [language], size)
    # A forest has one text of a domain: each size gets a copy of the forest.
    place = root.root.with_name(f"{root.root.name}-{text}")
    if not place.exists():
        with durable.publish_folder(place) as made:
            shutil.copytree(root.root, made, dirs_exist_ok=True)
    scratch = UNTRAINED if method == "scratch" else ()
    way = "copy" if method == "scratch" else method
    words = [f"data.root={bench.options.out / text}", f"data.name={text}", f"branch={way}"]
    config = bench.config(*words, *scratch, f"forest={place}")
    suite, forest = steps.prepare(config), Forest(place)
    if not forest.has_branch(name):
        # Only the forest's own experts, not other cells' of this language.
        steps.branch(config, name, language, among=None if scratch else bench.options.languages)
    branch = steps.train(config, name)
    test, train = suite.shard(language, "test"), suite.shard(language, "train")
    return {
        "seed": bench.seed,
        "language": language,
        "train_bytes": train.n_bytes,
        "method": method,
        "epochs": bench.options.steps * config.trainer.batch_size * SEQ_LEN / train.n_tokens,
        "parents": " ".join(f"{n}:{p.weight:.2f}" for n, p in branch.parents.items()),
        "test_bytes": test.head(bench.options.test)[1],
        "bits_per_byte": bits(bench.tested(config), forest, branch.path, test),
    }


def logp_of(config: Config, forest: Forest, path: Path, shard: Shard) -> NDArray[np.float32]:
    """Read log p of a shard's tokens by the model in `path`, (S, T), scored if need be."""
    sha256 = weights.sha256(path)
    score_cache.score_missing(config, forest, path, sha256, [shard], quiet)
    return score_cache.read(score_cache.scores_of(config, forest), shard, sha256)


def bits(config: Config, forest: Forest, path: Path, shard: Shard) -> float:
    """Measure a model's bits per byte on the first tokens of a shard."""
    tokens, size = shard.head(config.score.max_tokens)
    nats = scoring.nats_of(logp_of(config, forest, path, shard), shard, tokens)
    return posterior.bits_per_byte(nats * tokens, size)


def by_language(bench: Bench) -> Iterator[Row]:
    """Yield a row for each language and model of the comparison with a dense LM."""
    config, forest = bench.grown()
    suite = steps.prepare(config)
    average = forest.paths.average(AVERAGE).path
    if not average.exists():
        chosen = replace(config.average, name=AVERAGE, method="linear", measure=False)
        equal = {elm.name: 1.0 for elm in forest.experts()}
        steps.average(replace(config, average=chosen, weights=equal))
    rivals = {"seed": forest["seed"].path, "uniform average": average}
    forests = {"forest": forest}
    for kind in bench.options.baselines:
        derived = ready(bench.config(f"baseline={kind}"))
        if kind == "dense":
            rivals[kind] = steps.seed(derived).path
        else:
            run(derived)
            forests[kind] = Forest(derived.forest_root)
    for language in bench.options.languages:
        test, valid = suite.shard(language, "test"), suite.shard(language, "valid")
        size = test.head(bench.options.test)[1]
        tested = bench.tested(config)
        found = {called: bits(tested, forest, path, test) for called, path in rivals.items()}
        found["own expert"] = bits(tested, forest, forest[language].path, test)
        for called, grown in forests.items():
            found[called] = ensemble_bits(bench, config, grown, test, valid)
        for called, value in found.items():
            about = {"seed": bench.seed, "language": language, "test_bytes": size}
            yield {**about, "model": called, "bits_per_byte": value}


def ensemble_bits(
    bench: Bench,
    config: Config,
    forest: Forest,
    test: Shard,
    valid: Shard,
    members: Sequence[ELM] = (),
) -> float:
    """Measure the gated ensemble of `members`, or else all experts, whose prior is fitted on the
    language's valid text.
    """
    members = members or forest.experts()
    names = [elm.name for elm in members]

    def scored(how: Config, shard: Shard) -> evaluate.Scored:
        logp_EST = np.stack([logp_of(how, forest, elm.path, shard) for elm in members])
        size = shard.head(how.score.max_tokens)
        return evaluate.Scored(names, logp_EST, size, Text.of(shard, size[0]))

    chosen = replace(config.ensemble, rule="gated", prior="token", carry="window")
    entry = evaluate.shard_result(
        scored(bench.tested(config), test), names, scored(config, valid), chosen
    )
    return float(entry["ensemble"]["bits_per_byte"])


def identify(bench: Bench) -> Iterator[Row]:
    """Yield a row for each true language and length: how often each way says which language."""
    config, forest = bench.grown()
    suite, languages = steps.prepare(config), bench.options.languages
    config = bench.tested(config)
    members = [forest[language] for language in languages]
    vocabulary = bench.options.out / "data/languages/tokenizer/tokenizer.json"
    shards = [suite.shard(language, "train") for language in languages]
    linear = Linear(vocabulary, shards, SEQ_LEN, bench.options.steps * SEQUENCES)
    for language in languages:
        test = suite.shard(language, "test")
        windows = test.head(config.score.max_tokens)[0] // SEQ_LEN  # whole ones
        logp_EST = np.stack([logp_of(config, forest, elm.path, test) for elm in members])
        ids_ST = np.asarray(test.tokens[: windows * SEQ_LEN], np.int64).reshape(-1, SEQ_LEN)
        for tokens in bench.options.tokens:
            # From a uniform prior the posterior's greatest is the likelihood's.
            best_S = logp_EST[:, :windows, :tokens].sum(axis=2, dtype=np.float64).argmax(axis=0)
            said = {"posterior": best_S, "linear": linear.predict(ids_ST[:, :tokens])}
            for way, found_S in said.items():
                counts = np.bincount(found_S, minlength=len(languages))
                about = {"seed": bench.seed, "language": language, "tokens": tokens, "way": way}
                yield {**about, "texts": windows, **dict(zip(languages, counts, strict=True))}


class Linear:
    """A logistic regression on TF-IDF of character n-grams, n from 1 to 3.

    It is trained on `most` windows of each shard at most, of `window` tokens, drawn at random; all
    languages count alike, whatever they have.
    """

    def __init__(self, vocabulary: Path, shards: Sequence[Shard], window: int, most: int) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
        except ImportError:
            hint = "pip install 'branch-train-merge[discover]'"
            raise UserError(f"identification needs scikit-learn: {hint}") from None
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(vocabulary))
        self.features = TfidfVectorizer(
            analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=50_000
        )
        self.model = LogisticRegression(max_iter=300, class_weight="balanced")
        draw = np.random.default_rng(0)
        texts: list[str] = []
        labels: list[int] = []
        for number, shard in enumerate(shards):
            every = shard.n_tokens // window
            chosen = np.sort(draw.permutation(every)[:most])
            ids = shard.tokens[: every * window].reshape(-1, window)[chosen]
            texts += self.decode(np.asarray(ids, np.int64))
            labels += [number] * len(chosen)
        self.model.fit(self.features.fit_transform(texts), labels)

    def decode(self, ids_ST: NDArray[np.int64]) -> list[str]:
        texts: list[str] = self.tokenizer.decode_batch(ids_ST.tolist())
        return texts

    def predict(self, ids_ST: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the language of each row."""
        found: NDArray[np.int64] = self.model.predict(self.features.transform(self.decode(ids_ST)))
        return found


PARTS = {"branches": branches, "forest": by_language, "identify": identify}


SHOWN = {"branches": show_branches, "forest": show_forest, "identify": show_identify}


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of the settings that all benches of languages have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="a folder of languages")
    parser.add_argument("--out", type=Path, default=Path("results/languages"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES))
    parser.add_argument("--late", nargs="+", default=list(LATE))
    parser.add_argument("--steps", type=int, default=120, help="of each expert")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--most", type=int, default=2_000_000, help="bytes of a language's text")
    parser.add_argument("--held-out", type=int, default=8192, help="tokens of valid text")
    parser.add_argument("--test", type=int, default=16_384, help="tokens of test text")
    return parser


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="bytes; 0: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[128, 16], help="to identify by")
    parser.add_argument(
        "--baselines", nargs="*", choices=("dense", "random_split"), default=["dense"]
    )
    options, options_of_btm = parser.parse_known_args(words)
    options.words = options_of_btm
    return options


if __name__ == "__main__":
    main()
