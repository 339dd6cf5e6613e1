"""The report of a reproduction: tables as markdown, raw numbers as CSV, figures as PNG."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from btm.config.schema import Config
from btm.forest import ledger
from btm.forest.card import Card
from btm.paper import ablations, figures, losses, memory, one_model
from btm.paper.bootstrap import SCOPES, Nats, ratios
from btm.paper.studies import FOREST, ONE_MODEL, Study, root
from btm.system import durable

# The aims, at equal context: a row, a scope, the row it is divided by, the bound, and the paper's
# ratio (docs/results gives the sources).
GOALS = (
    (losses.GATED, "in-domain", losses.DENSE, "≤", 0.85, "0.86"),
    (losses.GATED, "novel", losses.DENSE, "≤", 0.93, "0.89"),
    ("random_split: cached prior", "in-domain", losses.DENSE, ">", 1.0, "> 1"),
    ("average: posterior", "in-domain", losses.DENSE, "≤", 0.92, "< 1"),
    (losses.GATED, "novel", losses.PAPER, "≤", 0.95, "1"),
)
_SOURCE = Path(__file__).parent
_MEMORIES = {  # of rows, in the order of the tables
    losses.memory("window", "none"): "Equal context: each window begun anew",
    losses.memory("window", "ngram"): "Each window begun anew, with an n-gram cache of the window",
    losses.memory("document", "none"): "Carried within documents: more memory than a dense LM's",
    losses.memory("document", "ngram"): "With an n-gram cache of the document",
    losses.SPLIT: "Carried through the split, over documents too",
}


def write(config: Config, studies: Sequence[Study]) -> Path:
    """Measure every row and write the report; return its folder."""
    folder = durable.make_folder(Path(config.paper.report or root(config) / "report"))
    documents = pd.DataFrame(list(losses.measure(studies)))
    found = Nats.of(documents)
    compared = ratios(found, losses.DENSE, config.paper.resamples)
    against_paper = ratios(found, losses.PAPER, config.paper.resamples)
    remembered = memory.compare(found, config.paper.resamples)
    varied = pd.DataFrame(list(ablations.measure(studies)))
    _csv(folder / "documents.csv.gz", documents)
    _csv(folder / "ratios.csv", compared)
    _csv(folder / "ratios-to-the-paper.csv", against_paper)
    _csv(folder / "memory.csv", remembered)
    _csv(folder / "ablations.csv", varied)
    _csv(folder / "domains.csv", by_domain(documents))
    pictures = figures.draw(folder, compared, varied, by_domain(documents))
    text = "\n\n".join(
        [
            f"# The paper's tables, size `{config.paper.name}`",
            _setting(config, studies),
            "## Perplexities and ratios to the dense LM",
            _LEGEND,
            main_tables(documents, compared, costs(studies)),
            "## What part of the gain is memory",
            _MEMORY,
            memory_table(remembered),
            "## Aims, at equal context",
            goals(compared, against_paper),
            *_pictures(pictures),
            "## One thing varied at a time (first seed)",
            _VARIED,
            ablation_tables(varied),
            "## Files",
            _FILES,
        ]
    )
    with durable.publish_file(folder / "report.md") as handle:
        handle.write(text.encode() + b"\n")
    return folder


_LEGEND = """\
`models` is how many models of one size run for each token, which the rows are ordered by: those
with 1 cost the same to use. `top-k after N tokens`: all experts read the first N tokens of a
window, then the k of greatest posterior go on alone. A ratio is the mean perplexity over domains
divided by the dense LM's, the geometric mean over seeds; in brackets the 95 % interval of Student's
t over seeds and documents (btm/paper/bootstrap.py), and — where one seed, or one document of a
domain, tells of no other. Below 1 is better than the dense LM. All ratios of this section are to
the dense LM without a cache; rows that remember more than it does stand apart."""

_MEMORY = """\
A rule that carries what it read of a document remembers more than the dense LM's window. So does
an n-gram cache, unigrams to trigrams mixed in by weights that are fitted on valid splits
(btm/ensemble/cache.py), and it serves a dense LM too. `memory` is what begins the weights of the
experts and the cache anew; `dense + cache` is that of the same memory. What the last columns leave
below 1 is not memory."""

_VARIED = """\
Ratios to the dense LM of the same seed. The dense LM was never trained on the domains that a
second round adds: under *initialisation* and *second round* compare the schemes with one another,
not with it."""

_FILES = """\
`documents.csv.gz`: nats of every test document under every row and seed; `domains.csv`: the same
by domain. `ratios.csv` and `ratios-to-the-paper.csv`: the tables above, to the dense LM and to
the paper's posterior. `memory.csv`: rows with and without memory and cache, to the dense LM and to
the dense LM with a cache. `ablations.csv`: what was varied."""


def main_tables(
    documents: pd.DataFrame, compared: pd.DataFrame, costs: Mapping[str, ledger.Sums]
) -> str:
    """Make a table of rows for each memory, with their cost, perplexities and ratios, as
    markdown.
    """
    parts = []
    for kind, title in _MEMORIES.items():
        part = documents[documents["memory"] == kind]
        if not part.empty:
            parts += [f"### {title}", main_table(part, compared, costs)]
    return "\n\n".join(parts)


def main_table(
    documents: pd.DataFrame, compared: pd.DataFrame, costs: Mapping[str, ledger.Sums]
) -> str:
    """Make the table of the rows in `documents`, by the models they run for a token: cost,
    perplexities and ratios, as markdown.
    """
    heads = ["row", "memory", "models", "tokens", "FLOPs"]
    heads += [f"ppl {scope}" for scope in SCOPES] + [f"ratio {scope}" for scope in SCOPES]
    records = {(r["row"], r["scope"]): r for r in compared.to_dict("records")}
    facts = documents.drop_duplicates("row")[["row", "memory", "models"]]

    def place(fact: Any) -> tuple[float, float]:
        return fact["models"], -records[(fact["row"], SCOPES[0])]["ratio"]

    lines = []
    for fact in sorted(facts.to_dict("records"), key=place):
        row = fact["row"]
        cost = costs.get(row) or costs[_kind(row)]
        found = [records[(row, scope)] for scope in SCOPES]
        cells = [row, fact["memory"], f"{fact['models']:.3g}"]
        cells += [f"{cost['tokens']:.3g}", f"{cost['flops']:.3g}"]
        cells += [f"{record['perplexity']:.2f}" for record in found] + [_interval(r) for r in found]
        lines.append(cells)
    return _markdown(heads, lines)


def memory_table(remembered: pd.DataFrame) -> str:
    """Make the table of what is memory: a line for each row, a column for each divisor and scope,
    as markdown.
    """
    columns = list(dict.fromkeys((_over(r), r["scope"]) for r in remembered.to_dict("records")))
    columns.sort(key=lambda column: column[0])
    lines = []
    for (kind, row), part in remembered.groupby(["memory", "row"], sort=False):
        cells = {(_over(record), record["scope"]): record for record in part.to_dict("records")}
        lines.append([str(row), str(kind), *(_interval(cells[column]) for column in columns)])
    lines.sort(key=lambda line: line[1] != losses.WINDOW)
    heads = ["row", "memory", *(f"{scope}, over {over}" for over, scope in columns)]
    return _markdown(heads, lines)


def _over(record: Any) -> str:
    """Name what a record of `memory.csv` is divided by, whatever its memory."""
    return str(record["over"]).removesuffix(losses.CARRIED)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *rows])


def costs(studies: Sequence[Study]) -> dict[str, ledger.Sums]:
    """Compute the training tokens and FLOPs, all ancestors included, behind the models of each kind
    of study, and behind each row whose making took more than its forest's.
    """
    found: dict[str, ledger.Sums] = {}
    for study in studies[::-1]:  # backwards, so that the first seed's figures stay
        grown = losses.Grown(study)
        if study.kind == ONE_MODEL:
            found |= one_model.costs(grown.forest)
            continue
        found[study.kind] = ledger.training(elm.card for elm in grown.experts)
        if study.kind == FOREST:
            found["seed"] = ledger.training([grown.forest[study.config.seed.name].card])
    return found


def goals(compared: pd.DataFrame, against_paper: pd.DataFrame) -> str:
    """Make the table of aims: the paper's value, the aim, the result, and whether it is met."""
    lines = [
        "| row | domains | over | paper, 125M | aim | here | aim met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, scope, base, sign, bound, paper in GOALS:
        table = compared if base == losses.DENSE else against_paper
        found = table[(table["row"] == row) & (table["scope"] == scope)]
        if found.empty:
            continue
        ratio = float(found["ratio"].iloc[0])
        met = ratio <= bound if sign == "≤" else ratio > bound
        lines.append(
            f"| {row} | {scope} | {base} | {paper} | {sign} {bound:g} | "
            f"{_interval(found.iloc[0])} | "
            f"{'met' if met else 'not met'} |"
        )
    return "\n".join(lines)


def ablation_tables(varied: pd.DataFrame) -> str:
    """Make a table for each ablation: its values, and the ratios of the compared rows."""
    parts = []
    for name, part in varied.groupby("ablation", sort=False):
        columns = list(dict.fromkeys(zip(part["row"], part["scope"], strict=True)))
        lines = [f"### {str(name).capitalize()}", ""]
        lines.append("| value | " + " | ".join(f"{row}, {scope}" for row, scope in columns) + " |")
        lines.append("|---|" + "---|" * len(columns))
        for value, rows in part.groupby("value", sort=False):
            by = rows.set_index(["row", "scope"])["ratio"]
            cells = [f"{by.get(key, float('nan')):.3f}" for key in columns]
            lines.append(f"| {value} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def by_domain(documents: pd.DataFrame) -> pd.DataFrame:
    """Sum nats, tokens and bytes by row, seed and domain, and compute perplexities."""
    keys = ["seed", "row", "group", "memory", "models", "domain", "novel"]
    summed = documents.groupby(keys, sort=False)[["tokens", "bytes", "nats"]].sum().reset_index()
    summed["perplexity"] = np.exp(summed["nats"] / summed["tokens"])
    return summed


def _setting(config: Config, studies: Sequence[Study]) -> str:
    """List what was run: settings and steps as the cards of what was grown have them, the machine
    and the software.
    """
    commit = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    import torch
    import transformers

    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    changed = _git("status", "--porcelain", "-uno", "--", ".", "../conf")
    system = f"{platform.system()} {platform.machine()}"
    rows = {
        "command": f"`btm paper size={config.paper.name}`",
        "commit": f"{commit} (with changes)" if changed else commit,
        "machine": f"{os.cpu_count()} cores, {_processor()}, {system}",
        "software": ", ".join(f"{name} {found}" for name, found in versions.items()),
        "suite": f"{config.data.name}; read are up to {config.score.max_tokens or 'all'} tokens of "
        f"a split, in windows of {config.window}",
        **trained(studies),
        "studies": grown(studies),
        "seeds": ", ".join(map(str, config.paper.seeds)),
    }
    return "\n".join(f"- {key}: {value}" for key, value in rows.items())


def trained(studies: Sequence[Study]) -> dict[str, str]:
    """Say what the cards of the first seed's forest and dense LM say of their training."""
    first = {study.kind: study for study in reversed(studies) if study.kind in (FOREST, "dense")}
    facts = {}
    if FOREST in first:
        forest = losses.Grown(first[FOREST])
        seeds = [elm.card for elm in forest.forest.elms() if not elm.card.parents]
        experts = [elm.card for elm in forest.experts]
        length = experts[0].settings.get("trainer.seq_len")  # None on cards of earlier versions
        sequences = f", trained on sequences of {length} tokens" if length else ""
        facts["model"] = f"{experts[0].parameters:,} parameters{sequences}"
        facts["the forest's seed"] = _steps(seeds)
        facts[f"each of {len(experts)} experts"] = _steps(experts)
    made = [study for study in studies if study.kind == ONE_MODEL]
    if made:
        found = one_model.models(losses.Grown(first[FOREST]).forest).values()
        steps = sorted({m.card.steps for m in found if m.card is not None and m.card.steps})
        facts["each student and trained mixture"] = f"{' to '.join(map(str, steps))} steps"
    if "dense" in first:
        facts["the dense LM"] = _steps([elm.card for elm in losses.Grown(first["dense"]).experts])
    return facts


def grown(studies: Sequence[Study]) -> str:
    """List the studies that the report is of, by kind: those of one seed with what was varied."""
    kinds: dict[str, list[Study]] = {}
    for study in studies:
        kinds.setdefault(study.kind, []).append(study)
    return ", ".join(
        f"{kind} ({', '.join(dict.fromkeys(s.value or f'seed {s.seed}' for s in of))})"
        for kind, of in kinds.items()
    )


def _steps(cards: Sequence[Card]) -> str:
    """Write the steps, tokens and peak learning rate of one training; those that differ as a
    range.
    """
    if not cards:
        return "none"

    def span(values: list[float], form: str) -> str:
        return " to ".join(format(value, form) for value in sorted({min(values), max(values)}))

    text = f"{span([card.steps for card in cards], ',')} steps"
    text += f", {span([card.tokens for card in cards], ',')} tokens"
    rates = [card.lr for card in cards if card.lr is not None]
    return f"{text}, learning rate {span(rates, 'g')}" if rates else text


def _kind(row: str) -> str:
    """Return the kind of study that bears a row's training cost."""
    if row.startswith(("forest", "average")):
        return FOREST
    return row.partition(":")[0].partition(losses.CACHE)[0]


def _interval(record: Any) -> str:
    """Write a ratio and its interval, where there is one."""
    if np.isnan(record["low"]):
        return f"{record['ratio']:.3f} [—]"
    return f"{record['ratio']:.3f} [{record['low']:.3f}, {record['high']:.3f}]"


def _pictures(names: Sequence[str]) -> list[str]:
    return [f"![{name.removesuffix('.png')}]({name})" for name in names]


def _csv(path: Path, frame: pd.DataFrame) -> None:
    with durable.publish_file(path) as handle:
        compression: Any = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
        frame.to_csv(handle, index=False, float_format="%.6f", compression=compression)


def _git(*words: str) -> str:
    try:
        command = ["git", "-C", str(_SOURCE), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
