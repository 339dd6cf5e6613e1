"""What an ensemble that commits gains by recalling experts, and what that costs: passes of experts for
a token and nats/token without recall, with it, and with all experts, on text of one domain, on novel
text, and on text whose domain changes in the middle of its context.

    python scripts/bench/recall.py experiment=demo ensemble=uniform ensemble.rule=gated [--tokens 16] [--experts 1 2]

A context is a window of the test split; one that changes has its first half from one domain and its
second from the next. Every expert reads all of them; then the rule follows them from a uniform prior,
with what it leaves open at its defaults.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from btm.cli.compose import compose
from btm.ensemble.course import follow
from btm.ensemble.posterior import uniform_prior
from btm.ensemble.rules import rule_of
from btm.forest import Forest
from btm.models import causal_lm
from btm.report.tables import table
from btm.steps.evaluate import evaluated, evaluated_suites


def main() -> None:
    """Print a row for each kind of text and each ensemble."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[16])
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--windows", type=int, default=32, help="contexts of each domain")
    parser.add_argument("--csv", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose(words, "eval")
    forest = Forest(config.forest_root)
    members = forest.experts()
    texts = contexts(
        config, {domain for elm in members for domain in elm.card.domains}, arguments.windows
    )
    models = [elm.load() for elm in members]
    start = int(models[0].config.eos_token_id)
    found = []
    for kind, ids_ST in texts.items():
        logp_EST = np.stack([scores(model, ids_ST, start) for model in models])
        for ensemble in ensembles(config.ensemble, arguments):
            found.append({"text": kind, **measured(ensemble, logp_EST, ids_ST)})
    print(
        table(found, f"{forest.root}: {config.ensemble.rule}, contexts of {config.window} tokens")
    )
    if arguments.csv:
        pd.DataFrame(found).to_csv(arguments.csv, index=False)


def contexts(config, known: set[str], windows: int) -> dict[str, np.ndarray]:
    """Cut windows of each kind of text, (S, T)."""
    size = config.window
    shards, _ = evaluated(config, evaluated_suites(config))
    cut = {
        shard.domain: np.asarray(shard.tokens[: windows * size], np.int64).reshape(-1, size)
        for shard in shards
    }
    own = [cut[domain] for domain in sorted(cut) if domain in known]
    new = [cut[domain] for domain in sorted(cut) if domain not in known]
    changing = [
        np.concatenate([one[:, : size // 2], other[:, size // 2 :]], axis=1)
        for one, other in zip(own, [*own[1:], own[0]], strict=True)
    ]
    return {
        "in-domain": np.concatenate(own),
        "novel": np.concatenate(new),
        "changing": np.concatenate(changing),
    }


def scores(model, ids_ST: np.ndarray, start: int) -> np.ndarray:
    """Compute log p of every token by one model, (S, T)."""
    targets = torch.from_numpy(ids_ST)
    inputs = torch.cat([torch.full((len(targets), 1), start), targets[:, :-1]], dim=1)
    with torch.inference_mode():
        return torch.cat(
            [
                causal_lm.token_logp(model, some, wanted)
                for some, wanted in zip(inputs.split(32), targets.split(32), strict=True)
            ]
        ).numpy()


def ensembles(base, arguments) -> Iterator:
    """Yield the settings that are measured."""
    yield replace(base, commit=0, top_k=0)
    for tokens in arguments.tokens:
        for experts in arguments.experts:
            for recall in (False, True):
                yield replace(base, commit=tokens, top_k=experts, recall=recall)


def measured(ensemble, logp_EST: np.ndarray, ids_ST: np.ndarray) -> dict:
    """Follow every context from a uniform prior."""
    rule, log_prior_E = rule_of(ensemble), uniform_prior(len(logp_EST))
    nats = reads = recalls = 0
    for s, ids_T in enumerate(ids_ST):
        course = rule.course(log_prior_E)
        logp_T, _ = follow(course, logp_EST[:, s], ids_T)
        nats, reads, recalls = nats - logp_T.sum(), reads + course.reads, recalls + course.recalls
    return {
        "N": ensemble.commit or None,
        "k": ensemble.top_k or None,
        "recall": ensemble.recall,
        "nats/token": nats / ids_ST.size,
        "experts run": reads / ids_ST.size,
        "replays a context": recalls / len(ids_ST),
    }


if __name__ == "__main__":
    main()
