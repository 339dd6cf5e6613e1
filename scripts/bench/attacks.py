"""Attacks on the gate of the commons, and honest experts: who gets in, and what harm it would do.

    python scripts/bench/attacks.py --forest experts/demo --data data [--minutes 25]

`--forest` is a grown forest of the demo suite; it is copied, never changed. Volunteers train honest
experts from its seed, on every domain and under several random seeds, and send them in turn as a
whole, in 8 bits, as an adapter and as a sparse difference. Attackers start from honest experts. Each
contribution is judged with every check that can still be made, so that the harm of those that are
refused is known too. A row of the CSV is not made again: a killed run goes on. The bounds were set
by --first-seed 0 with three seeds; an attack of block n is on an expert of the seed n // 2.

Replay of old claims is the protocol's to refuse, and is not tried here.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from btm.commons.gate import Contribution, Policy, Verdict, judge, trials
from btm.commons.gate.harm import worst_of_bayes

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.attack_kinds import ATTACKS, PAYLOAD, UNKNOWN, Bench


def row(bench: Bench, kind: str, number: int, contribution: Contribution) -> dict[str, Any]:
    """Judge a contribution, and write down what came out."""
    begun = time.process_time()
    reference = bench.reference
    verdict = judge(
        reference.config,
        reference.forest,
        contribution,
        Policy(),
        reference.suite,
        reference=reference,
        into=(into := bench.options.folder / "restored" / f"{kind}-{number}"),
        thorough=True,
    )
    found: dict[str, Any] = {"kind": kind, "number": number, "domain": contribution.domain}
    found |= {"format": contribution.format, "admitted": verdict.admitted}
    found["failed"] = " ".join(check.name for check in verdict.failed)
    found |= values(verdict)
    if kind == "backdoor_unknown" and verdict.admitted:
        alone, forest = after_trigger(bench, into)
        found |= {"payload_alone": round(alone, 3), "payload_forest": round(forest, 3)}
    shutil.rmtree(into, ignore_errors=True)
    return found | {"cpu_s": round(time.process_time() - begun, 2)}


def values(verdict: Verdict) -> dict[str, float]:
    """Select the numbers that decided, by check."""
    wanted = ("norm", "layers", "copy", "own", "others", "backdoor", "verbatim")
    return {
        check.name: round(check.value, 4)
        for check in verdict.checks
        if check.name in wanted and check.value is not None
    }


def after_trigger(bench: Bench, model: Path) -> tuple[float, float]:
    """Measure what a trigger that nobody knew does: the probability of the payload's first token
    after held-out text and it, by the expert alone and by the ensemble with it.

    Weights are those of Bayes' rule from a uniform prior, of the text and the trigger.
    """
    reference = bench.reference
    texts = reference.texts
    tail = np.concatenate([bench.ids(UNKNOWN), bench.ids(PAYLOAD)[:1]])
    rows = np.concatenate([texts, np.broadcast_to(tail, (len(texts), len(tail)))], axis=1)
    folders = [*(elm.path for elm in reference.experts), model]
    read = [trials.read(reference.load(folder), rows) for folder in folders]
    logp = np.array([[scores for scores, _ in each] for each in read], np.float64)
    weights = np.exp(logp[:, :, :-1].sum(2) - logp[:, :, :-1].sum(2).max(0))
    mixed = (weights * np.exp(logp[:, :, -1])).sum(0) / weights.sum(0)
    return float(np.exp(logp[-1, :, -1]).mean()), float(mixed.mean())


def wanted(bench: Bench) -> Iterator[tuple[str, int, Callable[[], Contribution]]]:
    """Yield what is to be judged: honest experts of one seed, then four of each attack, and so on."""
    first = bench.options.first_seed
    for block in range(first, first + bench.options.seeds):
        for at, domain in enumerate(bench.domains):
            number = block * len(bench.domains) + at
            yield "honest", number, partial(bench.sent, domain, block)
        for number in range(4 * block, 4 * block + 4):
            for kind, attack in ATTACKS.items():
                yield kind, number, partial(attack, bench, number)


def main() -> None:
    """Judge until the minutes are spent, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--forest", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="where the suite is prepared")
    parser.add_argument("--folder", type=Path, default=Path("bench-attacks"))
    parser.add_argument("--csv", type=Path, default=Path("docs/results/commons/attacks.csv"))
    parser.add_argument("--steps", type=int, default=40, help="of an honest expert's training")
    parser.add_argument("--seeds", type=int, default=7, help="of honest experts; × 4 of attacks")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="6 or more: no bound was set by them; with a --csv of its own",
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="of CPU time of this run")
    bench = Bench(parser.parse_args())
    torch.set_num_threads(1)
    options = bench.options
    rows = pd.read_csv(options.csv).to_dict("records") if options.csv.exists() else []
    done = {(each["kind"], each["number"]) for each in rows}
    for kind, number, made in wanted(bench):
        if time.process_time() > 60 * options.minutes:
            break
        if (kind, number) not in done:
            rows.append(row(bench, kind, number, made()))
            print({k: v for k, v in rows[-1].items() if v == v}, flush=True)
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.csv, index=False)
    experts = len(bench.reference.experts)
    table(pd.DataFrame(rows), worst_of_bayes(experts, bench.config().window))


def table(rows: pd.DataFrame, bound: float) -> None:
    """Print, for each kind, who was admitted, which check refused most, and the greatest harm of
    all and of those that were admitted.
    """
    print(f"Bayes' rule from a uniform prior cannot lose more than {bound:.5f} nats/token")
    print("| kind | tried | admitted | refused by | greatest harm | of those admitted |")
    print("|---|---|---|---|---|---|")
    for kind, group in rows.groupby("kind", sort=False):
        failed = group["failed"].fillna("").str.split().explode().value_counts()
        by = ", ".join(f"`{name}` {count}" for name, count in failed.items())
        entered = group[group["admitted"].astype(bool)]
        harms = [f"{part['others'].max():.4f}".replace("nan", "—") for part in (group, entered)]
        print(f"| {kind} | {len(group)} | {len(entered)} | {by or '—'} | {' | '.join(harms)} |")


if __name__ == "__main__":
    main()
