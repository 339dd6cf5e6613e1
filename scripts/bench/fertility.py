"""Fertility of tokenizers by domain: tokens a byte and a word of held-out text.

    python scripts/bench/fertility.py --text corpora/roots --vocab-size 16384 --sampling 0.3

Three tokenizers are trained on the same domains as `btm prepare` trains one: on text in which a
domain of n bytes has a share p ∝ n^α (data.sampling), on text in its own proportions (α = 1), and on
the first text again with BLOOM's words (data.words=bloom) for GPT-2's. Each encodes the valid split of every domain. A word is what stands between blanks: languages written
without them have few, so tokens a byte compare better there. Novel domains, on which no tokenizer is
trained, are marked with *. The last rows are means over domains, and over the ten whose training
text is smallest.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from btm.config.data import DataConfig
from btm.data.examine import find_sources
from btm.data.sampling import shares, training_texts
from btm.data.splits import Survey, survey
from btm.data.tokenizer import train_tokenizer

SMALLEST = 10


@dataclass(frozen=True)
class Fertility:
    """Tokens of a text by one tokenizer, its bytes and its words."""

    tokens: int
    n_bytes: int
    words: int

    @property
    def a_byte(self) -> float:
        return self.tokens / self.n_bytes

    @property
    def a_word(self) -> float:
        return self.tokens / self.words


@dataclass(frozen=True)
class Row:
    """A domain: its training text in bytes, and the fertility of each tokenizer on its valid split."""

    domain: str
    novel: bool
    train_bytes: int
    sampled: Fertility
    raw: Fertility
    bloom: Fertility


def main() -> None:
    args = parse()
    config = DataConfig(root=str(args.text), name="bench", vocab_size=args.vocab_size)
    rows = measure(config, args.sampling, args.bytes, args.most)
    print(*table(rows, args.sampling), sep="\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="a folder of domains")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--sampling", type=float, default=0.3, help="as data.sampling")
    parser.add_argument("--bytes", type=int, default=20_000_000, help="as data.tokenizer_bytes")
    parser.add_argument("--most", type=int, default=300_000, help="bytes of valid text a domain")
    return parser.parse_args()


def measure(config: DataConfig, alpha: float, budget: int, most: int) -> list[Row]:
    """Train the tokenizers and encode up to `most` bytes of each domain; smallest domains first."""
    sources, novel = find_sources(config)
    surveys = [survey(source, config) for source in sources]
    training = [each for each in surveys if each.source.domain not in novel]
    with tempfile.TemporaryDirectory(prefix="btm-bench-") as scratch:
        ways = ((alpha, "gpt2"), (1.0, "gpt2"), (alpha, "bloom"))
        tokenizers = [
            trained(training, config, budget, power, words, Path(scratch) / f"{power}-{words}")
            for power, words in ways
        ]
        rows = []
        for each in surveys:
            texts = held_out(each, config.text_column, most)
            found = [fertility(tokenizer, texts) for tokenizer in tokenizers]
            name = each.source.domain
            rows.append(Row(name, name in novel, each.splits["train"].bytes, *found))
    return sorted(rows, key=lambda row: row.train_bytes)


def trained(
    training: Sequence[Survey],
    config: DataConfig,
    budget: int,
    alpha: float,
    words: str,
    folder: Path,
) -> Any:
    """Train a tokenizer on shares p ∝ n^α that splits `words` so, and load it."""
    from tokenizers import Tokenizer

    texts = training_texts(training, config.text_column, budget, alpha=alpha)
    train_tokenizer(texts, folder, config.vocab_size, sampling=alpha, words=words)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def held_out(seen: Survey, column: str, most: int) -> list[str]:
    """Read the first documents of the valid split, up to `most` bytes."""
    texts: list[str] = []
    size = 0
    for split, text in seen.documents(column):
        if split == "valid" and size < most:
            texts.append(text)
            size += len(text.encode())
    return texts


def fertility(tokenizer: Any, texts: Iterable[str]) -> Fertility:
    """Count tokens, bytes and words of texts."""
    known = list(texts)
    tokens = sum(len(each.ids) for each in tokenizer.encode_batch(known))
    return Fertility(
        tokens, sum(len(text.encode()) for text in known), sum(len(text.split()) for text in known)
    )


def table(rows: Sequence[Row], alpha: float) -> Iterable[str]:
    """Write the rows as a table of Markdown."""
    ways = f"α={alpha:g} | α=1 | α={alpha:g}, bloom"
    yield f"| domain | train MB | share α={alpha:g} | tokens/byte {ways} | tokens/word {ways} |"
    yield "|---" * 9 + "|"
    of_training = [row for row in rows if not row.novel]
    parts = shares([row.train_bytes for row in of_training], alpha)
    share = {row.domain: p for row, p in zip(of_training, parts.tolist(), strict=True)}
    for row in rows:
        part = f"{share[row.domain]:.2%}" if row.domain in share else "0"
        yield (
            f"| {row.domain}{'*' * row.novel} | {row.train_bytes / 1e6:.3f} | {part} "
            f"| {row.sampled.a_byte:.3f} | {row.raw.a_byte:.3f} | {row.bloom.a_byte:.3f} "
            f"| {row.sampled.a_word:.2f} | {row.raw.a_word:.2f} | {row.bloom.a_word:.2f} |"
        )
    few = f"mean of the {SMALLEST} smallest"
    for name, some in ((few, of_training[:SMALLEST]), (f"mean of {len(rows)}", rows)):
        each = [(r.sampled, r.raw, r.bloom) for r in some]
        bytes_ = np.mean([[f.a_byte for f in found] for found in each], axis=0)
        words = np.mean([[f.a_word for f in found] for found in each], axis=0)
        cells = [*(f"{value:.3f}" for value in bytes_), *(f"{value:.2f}" for value in words)]
        yield f"| {name} | | | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
