"""What the defaults should be: forests beside dense LMs at equal training tokens, one setting at a
time.

    python scripts/bench/choosing.py --part rates --suites demo            learning rates and schedules of both sides
    python scripts/bench/choosing.py --part rates --report                 the tables of what stands already
    python scripts/bench/choosing.py --part default --seeds 0 1 2          the defaults as they are, several seeds

Every cell is a forest (a seed phase, then an expert a domain) or a dense LM of one suite, one model
and one random seed. All cells of a suite and a model see the same number of tokens. The seed phase
is shared by the cells that differ in the experts alone. Killed at any moment, the same command goes
on: what stands in --out is not grown again. One row a cell and domain goes to <out>/choosing.csv:
nats per token of the ensemble (gated, each window begun anew, and under the paper's cached prior),
of the domain's own expert, of the seed, or of the dense LM.

Suites: `demo` is embedded; `btm16` and `far8` are built by scripts/build_corpora.py and found with
--corpora.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from btm.cli.compose import compose
from btm.config.schema import Config
from btm.data import prepare as preparation
from btm.data.shards import Suite
from btm.ensemble import evaluate
from btm.ensemble.text import Text
from btm.forest import Forest
from btm.paper.pool import Pool
from btm.paper.studies import SEED_PHASE, Study
from btm.report import ConsoleReporter
from btm.report.tables import table
from btm.steps import score_cache
from btm.steps.baselines.derive import expert_domains
from btm.system import durable

SEQUENCES, SEQ_LEN = 16, 128  # of a batch: 2,048 tokens a step
HELD_OUT = 8_192  # tokens of each valid and test split that are scored


@dataclass(frozen=True)
class Size:
    """A model and what it is trained on: steps of the seed phase and of each of eight experts."""

    words: tuple[str, ...]
    vocab_size: int
    seed_steps: int
    steps: int


def _pico(hidden: int, inner: int, layers: int, heads: int) -> tuple[str, ...]:
    shape = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    return ("model=pico", *(f"model.config.{key}={value}" for key, value in shape.items()))


SIZES = {
    "smoke": Size(_pico(16, 32, 1, 2), 512, 8, 1),  # tells nothing but that the script runs
    "0.2m": Size(_pico(64, 172, 2, 2), 2048, 1920, 240),  # 0.23 M parameters, 34 tokens for each
    "0.2m-short": Size(_pico(64, 172, 2, 2), 2048, 560, 70),  # the same with 10 tokens for each
    "0.3m": Size(_pico(64, 172, 4, 4), 2048, 1920, 240),  # 0.33 M parameters, 24 tokens for each
    "1m": Size(("model=pico",), 2048, 2560, 320),  # 1.05 M parameters, 10 tokens for each
    "7m-begun": Size(
        ("model=tiny",), 8192, 256, 32
    ),  # 7.3 M parameters: a million tokens, for `peaks` alone
}
SUITES = ("demo", "btm16", "far8")


@dataclass(frozen=True)
class Setting:
    """What one cell varies; the dense LM takes `lr` and `decay` alone."""

    kind: str  # forest | dense
    lr: float | None  # of the dense LM and of the seed phase; None: the default
    decay: str | None = None
    carry: str | None = None
    expert_lr: float | None = None  # None: lr
    fraction: float = 0.5  # of the tokens that the seed phase sees
    batch: int = SEQUENCES  # sequences a step; the number of tokens stays
    share: float | None = None  # of the steps that wsd decays in

    @property
    def name(self) -> str:
        """The cell's name within its suite, size and random seed."""
        words = [self.kind]
        words += [
            f"{label}{value:g}"
            for label, value in (("lr", self.lr), ("x", self.expert_lr))
            if value
        ]
        words += [word for word in (self.decay, self.carry) if word]
        words += [f"f{self.fraction:g}"] if self.fraction != 0.5 else []
        words += [f"b{self.batch}"] if self.batch != SEQUENCES else []
        words += [f"s{self.share:g}"] if self.share is not None else []
        return "-".join(words)

    @property
    def seed_phase(self) -> "Setting":
        """The part of a forest's setting that its seed phase depends on."""
        return replace(self, kind="seed", expert_lr=None)


def rates() -> Iterator[Setting]:
    """Yield dense LMs and forests at learning rates a factor of 2 apart, under each schedule."""
    for lr in (6e-3, 3e-3, 1.2e-2):
        for decay in ("cosine", "wsd"):
            yield Setting("dense", lr, decay)
            yield Setting("forest", lr, decay, "auto")
            for factor in (1, 0.5, 0.25):
                yield Setting("forest", lr, decay, "fresh", expert_lr=lr * factor)


def schedules() -> Iterator[Setting]:
    """Yield what `rates` found to matter, at its best rate."""
    yield Setting("dense", 6e-3, "cosine")
    yield Setting("forest", 6e-3, "cosine", "fresh", expert_lr=6e-3)
    yield Setting("forest", 6e-3, "cosine", "fresh", expert_lr=3e-3)
    yield Setting("forest", 6e-3, "cosine", "auto")
    yield Setting("forest", 6e-3, "wsd", "auto")
    yield Setting("dense", 3e-3, "cosine")
    yield Setting("dense", 6e-3, "wsd")


def peaks() -> Iterator[Setting]:
    """Yield dense LMs at learning rates around the default of every size."""
    for lr in (6e-3, 3e-3, 1.5e-3, 1.2e-2):
        yield Setting("dense", lr, "cosine")


def batches() -> Iterator[Setting]:
    """Yield the defaults with fewer and more sequences a step, at as many tokens."""
    for batch in (SEQUENCES, SEQUENCES // 2, SEQUENCES * 2):
        yield Setting("dense", None, batch=batch)
        yield Setting("forest", None, batch=batch)


def short() -> Iterator[Setting]:
    """Yield what may help where steps are few: a longer seed phase, fewer sequences a step."""
    yield Setting("dense", None)
    yield Setting("forest", None, fraction=0.75)
    for batch in (SEQUENCES // 2, SEQUENCES // 4):
        yield Setting("dense", None, batch=batch)
        for fraction in (0.5, 0.75):
            yield Setting("forest", None, fraction=fraction, batch=batch)


def fractions() -> Iterator[Setting]:
    """Yield the defaults with other shares of the tokens for the seed phase."""
    yield Setting("dense", None)
    for fraction in (0.5, 0.75):
        yield Setting("forest", None, fraction=fraction)


def default() -> Iterator[Setting]:
    """Yield a dense LM and a forest without any word on rate, schedule or carry."""
    yield Setting("dense", None)
    yield Setting("forest", None)


PARTS = {
    "rates": rates,
    "schedules": schedules,
    "peaks": peaks,
    "batches": batches,
    "short": short,
    "fractions": fractions,
    "default": default,
}


@dataclass(frozen=True)
class Cell:
    """A setting on one suite, at one size, under one random seed."""

    suite: str
    size: str
    seed: int
    setting: Setting

    @property
    def name(self) -> str:
        """Its name, also that of its forest."""
        return f"{self.suite}-{self.size}-{self.seed}-{self.setting.name}"


def main() -> None:
    args = parse()
    cells = [
        Cell(suite, args.size, seed, setting)
        for seed in args.seeds
        for suite in args.suites
        for setting in PARTS[args.part]()
    ]
    if not args.report:
        grow(cells, args)
    rows = [row for cell in cells if stands(args.out, cell) for row in measured(cell, args)]
    write_csv(args.out / f"{args.part}-{args.size}.csv", rows)
    show(cells, rows)


def grow(cells: Sequence[Cell], args: argparse.Namespace) -> None:
    """Grow what is missing, `args.parallel` at a time, one thread each."""
    for suite in args.suites:
        preparation.prepare(
            config_of(Cell(suite, args.size, 0, Setting("dense", None)), args).data, say
        )
    studies = {}
    for cell in cells:
        if cell.setting.kind == "forest":
            begun = replace(cell, setting=cell.setting.seed_phase)
            studies[begun.name] = Study(begun.name, SEED_PHASE, cell.seed, config_of(begun, args))
            needs, copied = (begun.name,), begun.name
        else:
            needs, copied = (), None
        studies[cell.name] = Study(
            cell.name, "cell", cell.seed, config_of(cell, args), needs, copied
        )
    pool = Pool(args.out / "log", args.parallel, ConsoleReporter(sys.stderr))
    pool.grow(list(studies.values()))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def config_of(cell: Cell, args: argparse.Namespace) -> Config:
    """Return the configuration of a cell's cycle."""
    config = compose(words_of(cell, args))
    config.run.rounds = [] if cell.setting.kind == "dense" else [expert_domains(config)]
    return config


def words_of(cell: Cell, args: argparse.Namespace) -> list[str]:
    """Return the words of a cell's cycle."""
    size, s = SIZES[cell.size], cell.setting
    tokens = (size.seed_steps + 8 * size.steps) * SEQUENCES
    each = round((1 - s.fraction) * tokens / 8 / s.batch)
    words = [
        *(
            ["data=demo"]
            if cell.suite == "demo"
            else [f"data={cell.suite}", f"data.root={args.corpora / cell.suite}"]
        ),
        f"data.name={cell.suite}-{size.vocab_size}",
        f"data.out={args.out / 'data'}",
        f"data.vocab_size={size.vocab_size}",
        *size.words,
        f"forest={args.out / 'forests' / cell.name}",
        f"trainer.seed={cell.seed}",
        f"trainer.batch_size={s.batch}",
        f"trainer.seq_len={SEQ_LEN}",
        f"trainer.steps={each}",
        f"seed.steps={tokens // s.batch - 8 * each}",
        "trainer.threads=1",
        "trainer.checkpoint_every=10000",
        "trainer.compile=never",
        "run.average=false",
        "merge.force=true",
        "ensemble.carry=window",
        f"score.max_tokens={HELD_OUT}",
    ]
    if s.lr is not None:
        words += [f"seed.lr={s.lr}", f"trainer.lr={s.expert_lr or s.lr}"]
    words += [f"trainer.decay={s.decay}"] if s.decay else []
    words += [f"trainer.carry={s.carry}"] if s.carry else []
    words += [f"trainer.decay_share={s.share}"] if s.share is not None else []
    words += ["baseline=dense"] if s.kind == "dense" else []
    return words


def stands(out: Path, cell: Cell) -> bool:
    return (out / "log" / f"{cell.name}.done").exists()


def measured(cell: Cell, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield a row for each domain: nats per token on its test split."""
    config = config_of(cell, args)
    forest = Forest(config.forest_root)
    suite = Suite.open(Path(config.data.out) / config.data.name)
    scores = score_cache.scores_of(config, forest)
    about = {"suite": cell.suite, "size": cell.size, "seed": cell.seed, **asdict(cell.setting)}
    root = forest["dense" if cell.setting.kind == "dense" else "seed"]
    elms = [] if cell.setting.kind == "dense" else forest.experts()
    for domain in suite.domains():
        test, valid = suite.shard(domain, "test"), suite.shard(domain, "valid")
        tokens = test.head(HELD_OUT)[0]
        row = {
            "domain": domain,
            "novel": suite.novel(domain),
            "tokens": tokens,
            "root": -float(
                score_cache.stack(scores, test, [root])[0]
                .reshape(-1)[:tokens]
                .mean(dtype=np.float64)
            ),
        }
        if elms:
            logp, fitted = (
                score_cache.stack(scores, test, elms),
                score_cache.stack(scores, valid, elms),
            )
            own = {
                elm.name: -logp[i].reshape(-1)[:tokens].mean(dtype=np.float64)
                for i, elm in enumerate(elms)
            }
            row["own"] = float(own.get(domain, np.nan))
            for name, words in (("gated", ("gated", "token")), ("cached", ("bayes", "cached"))):
                chosen = replace(config.ensemble, rule=words[0], prior=words[1], carry="window")
                names = [elm.name for elm in elms]
                found, held_out = (
                    evaluate.Scored(
                        names, part, shard.head(HELD_OUT), Text.of(shard, shard.head(HELD_OUT)[0])
                    )
                    for part, shard in ((logp, test), (fitted, valid))
                )
                entry = evaluate.shard_result(found, names, held_out, chosen)
                row[name] = entry["ensemble"]["nats_per_token"]
        yield about | row


def write_csv(file: Path, rows: Sequence[dict[str, object]]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                k: f"{v:.5f}" if isinstance(v, float) and k not in ("lr", "expert_lr") else v
                for k, v in row.items()
            }
        )
    with durable.publish_file(file) as handle:
        handle.write(text.getvalue().encode())


def show(cells: Sequence[Cell], rows: Sequence[dict[str, object]]) -> None:
    """Print each cell's mean perplexity ratio to the best dense LM of the same suite, size and
    random seed.
    """
    lines = []
    by_cell: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        key = (
            row["suite"],
            row["seed"],
            Setting(**{k: row[k] for k in asdict(cells[0].setting)}).name,
        )
        by_cell.setdefault(key, []).append(row)
    for (suite, seed, name), own in by_cell.items():
        rivals = [
            v for k, v in by_cell.items() if k[:2] == (suite, seed) and v[0]["kind"] == "dense"
        ]
        if not rivals:
            continue
        rival = min(rivals, key=lambda v: np.mean([r["root"] for r in v if not r["novel"]]))
        line = {"suite": suite, "seed": seed, "cell": name}
        for column in ("root", "own", "cached", "gated"):
            for label, novel in (("in", False), ("novel", True)):
                pairs = [
                    (r[column], q["root"])
                    for r, q in zip(own, rival, strict=True)
                    if r["novel"] is novel
                    and isinstance(r.get(column), float)
                    and np.isfinite(r[column])
                ]
                line[f"{column} {label}"] = (
                    round(float(np.exp(np.mean([a - b for a, b in pairs]))), 3) if pairs else None
                )
        ahead = [
            r.get("gated", r["root"]) < q["root"]
            for r, q in zip(own, rival, strict=True)
            if not r["novel"]
        ]
        lines.append(line | {"ahead": f"{sum(ahead)}/{len(ahead)}"})
    print(table(lines, "perplexity over that of the best dense LM (geometric mean over domains)"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--size", choices=SIZES, default="0.2m")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=["demo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--corpora", type=Path, default=Path("corpora"), help="where btm16/ and far8/ are"
    )
    parser.add_argument("--out", type=Path, default=Path("results/choosing"))
    parser.add_argument("--parallel", type=int, default=2, help="cells at once, a thread each")
    parser.add_argument("--report", action="store_true", help="only show what stands")
    return parser.parse_args()


if __name__ == "__main__":
    main()
