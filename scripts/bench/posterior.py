"""Seconds per setting to mix cached scores under each rule, and its distance from a plain float64
reference.

    python scripts/bench/posterior.py [--experts 64] [--tokens 1048576] [--windows 128 1024]

Scores are synthetic: a difficulty a token, a skill an expert and window, and noise. The reference
is the equation of each rule, step by step in float64 and in log space, on the first windows; bayes
has it in btm/ensemble/posterior.py, gated in gate.OnlineGate. Tokens, which gated reads, are drawn from
Zipf's law.
"""

import argparse
import platform
import time

import numpy as np

from btm.config.ensemble import EnsembleConfig
from btm.ensemble import gate, posterior, tracking
from btm.ensemble.rule import ValidScores
from btm.ensemble.rules import rule_of
from btm.ensemble.text import Text
from btm.report.tables import table

SETTINGS = [
    ("bayes", None, None, "window"),
    ("simple", None, None, "window"),
    ("last_token", None, None, "window"),
    ("fixed_share", 0.03, None, "window"),
    ("tracking", 0.03, 0.9, "window"),
    ("tracking", 0.0, 0.9, "window"),
    ("bayes", None, None, "document"),
    ("fixed_share", 0.03, None, "document"),
    ("tracking", 0.03, 0.9, "document"),
    ("gated", None, None, "window"),
    ("gated", None, None, "document"),
]  # rule, alpha, beta, carry
CHECKED = 64  # windows that the reference is computed on
DOCUMENT = 4  # windows of a document


def main() -> None:
    """Print a row for each rule and window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1 << 20)
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 1024])
    arguments = parser.parse_args()
    rows: list[dict] = []
    for window in arguments.windows:
        logp_EST = scores(arguments.experts, arguments.tokens // window, window)
        log_prior_E = np.log(np.random.default_rng(1).dirichlet(np.full(arguments.experts, 0.3)))
        rows += [measure(logp_EST, log_prior_E, *setting) for setting in SETTINGS]
        rows += [measure_fit(logp_EST, log_prior_E), measure_gate(logp_EST, log_prior_E)]
    print(
        table(
            rows,
            f"{arguments.experts} experts, {arguments.tokens:,} tokens; "
            f"{platform.processor() or 'CPU'}",
        )
    )


def scores(experts: int, sequences: int, window: int) -> np.ndarray:
    """Return synthetic log-probabilities in nats, float32 (E, S, T)."""
    rng = np.random.default_rng(0)
    logp_EST = np.empty((experts, sequences, window), np.float32)
    hard_ST = rng.gamma(1.2, 2.5, (sequences, window))
    for row_ST in logp_EST:
        skill_S1 = rng.normal(0, 0.15) + rng.normal(0, 0.2, (sequences, 1))
        row_ST[:] = -np.maximum(hard_ST + skill_S1 + rng.normal(0, 0.5, (sequences, window)), 1e-3)
    return logp_EST


def text(tokens: int, document: int) -> Text:
    """Make documents of `document` tokens of a vocabulary of 50,000, the n-th as often as 1/n."""
    shares = 1 / np.arange(1, 50_001)
    ids_N = np.random.default_rng(2).choice(len(shares), tokens, p=shares / shares.sum())
    return Text(ids_N, np.arange(tokens) % document == 0)


def measure(logp_EST: np.ndarray, log_prior_E: np.ndarray, rule: str, alpha, beta, carry) -> dict:
    """Return one row: seconds of the processor and of the clock, nats/token, and the distance."""
    ensemble = EnsembleConfig(rule=rule, alpha=alpha, beta=beta, carry=carry)
    tokens = logp_EST[0].size
    read = text(tokens, DOCUMENT * logp_EST.shape[2])
    cpu, clock = time.process_time(), time.perf_counter()
    mixed = rule_of(ensemble).mix(logp_EST, log_prior_E, tokens, read)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    some_EST = logp_EST[:, :CHECKED]
    some = rule_of(ensemble).mix(some_EST, log_prior_E, some_EST[0].size, read)
    found = some.nats / some_EST[0].size
    if carry == "document":
        some_EST = some_EST.reshape(len(some_EST), -1, DOCUMENT * logp_EST.shape[2])
    if rule == "gated":
        wanted = -token_by_token(some_EST, log_prior_E, read.ids).mean()
    else:
        wanted = -reference(
            some_EST, log_prior_E, rule, alpha or 0.0, 1.0 if beta is None else beta
        ).mean()
    return {
        "window": logp_EST.shape[2],
        "rule": rule,
        "alpha": alpha,
        "beta": beta,
        "carry": carry,
        "CPU seconds": round(cpu, 2),
        "clock": round(clock, 2),
        "nats/token": mixed.nats / tokens,
        "off by, nats/token": f"{abs(found - wanted):.1e}",
        "relative": f"{abs(found / wanted - 1):.1e}",
    }


def measure_fit(logp_EST: np.ndarray, log_prior_E: np.ndarray) -> dict:
    """Return a row for the fit of α and β: seconds for each of its settings."""
    settings = len(tracking.ALPHAS) * len(tracking.BETAS)
    cpu, clock = time.process_time(), time.perf_counter()
    rule_of(EnsembleConfig(rule="tracking")).fit(
        [ValidScores(logp_EST, log_prior_E, logp_EST[0].size)]
    )
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    row = {"window": logp_EST.shape[2], "rule": f"fit of {settings} settings, each"}
    return row | {"CPU seconds": round(cpu / settings, 2), "clock": round(clock / settings, 2)}


def measure_gate(logp_EST: np.ndarray, log_prior_E: np.ndarray) -> dict:
    """Return a row for the fit of a gate on documents."""
    ensemble, tokens = EnsembleConfig(rule="gated", carry="document"), logp_EST[0].size
    read = text(tokens, DOCUMENT * logp_EST.shape[2])
    cpu, clock = time.process_time(), time.perf_counter()
    rule_of(ensemble).fit([ValidScores(logp_EST, log_prior_E, tokens, read)])
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    row = {"window": logp_EST.shape[2], "rule": "fit of a gate"}
    return row | {"CPU seconds": round(cpu, 2), "clock": round(clock, 2)}


def token_by_token(logp_EST: np.ndarray, log_prior_E: np.ndarray, ids_N: np.ndarray) -> np.ndarray:
    """Return the mixture's log-probabilities under the default gate, (S, T), token by token."""
    found_ST = np.empty(logp_EST.shape[1:])
    for s, logp_ET in enumerate(logp_EST.swapaxes(0, 1)):
        online, start = gate.OnlineGate(log_prior_E), s * logp_EST.shape[2]
        for t, logp_E in enumerate(logp_ET.T):
            found_ST[s, t] = online.update(logp_E, int(ids_N[start + t]))
    return found_ST


def reference(
    logp_EST: np.ndarray, log_prior_E: np.ndarray, rule: str, alpha: float, beta: float
) -> np.ndarray:
    """Return the mixture's log-probabilities, (S, T), in float64 and log space, one step after
    another.
    """
    logp_EST = logp_EST.astype(np.float64)
    if rule == "bayes":
        return np.stack(
            [posterior.mixture(logp_ET, log_prior_E) for logp_ET in logp_EST.swapaxes(0, 1)]
        )
    prior_E1 = log_prior_E[:, None] - np.logaddexp.reduce(log_prior_E)
    log_w_ES = np.broadcast_to(prior_E1, logp_EST.shape[:2])
    if rule == "last_token":
        log_w_ES = np.full(logp_EST.shape[:2], -np.log(len(logp_EST)))
    mixed = []
    for t in range(logp_EST.shape[2]):
        seen_ES = logp_EST[:, :, t]
        mixed.append(np.logaddexp.reduce(log_w_ES + seen_ES, axis=0))
        if rule == "last_token":
            log_w_ES = prior_E1 + seen_ES
        elif rule in ("tracking", "fixed_share"):
            log_w_ES = beta * log_w_ES + seen_ES
        log_w_ES = log_w_ES - np.logaddexp.reduce(log_w_ES, axis=0)
        if alpha:
            log_w_ES = np.logaddexp(np.log1p(-alpha) + log_w_ES, np.log(alpha) + prior_E1)
    return np.stack(mixed, axis=1)


if __name__ == "__main__":
    main()
