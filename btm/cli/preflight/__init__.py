"""Checks before a command begins, so that no job of a cycle fails late for want of something.

A check takes the configuration and raises `UserError`: what was found, what was wanted, the remedy.
It writes nothing and trains nothing. `--dry-run` has the very same checks as the verb. On Slurm
nothing is asked of the login node that only a node can answer.

by_verb  which verb has which
extras   packages that are not always installed, and fairseq's own Python
names    domains and ELMs: they stand, or the cycle makes them
machine  devices, memory, disk, folders that can be written
shape    the model: that there is one, and its positions
"""

from collections.abc import Collection

from btm.config.schema import Config

# The others only read: a listing need not wait for the imports that checks take.
VERBS = (
    "prepare",
    "discover",
    "seed",
    "train",
    "score",
    "eval",
    "compare",
    "average",
    "mix",
    "distil",
    "generate",
    "serve",
    "bench",
    "import",
    "export",
    "report",
    "watch",
    "push",
    "pull",
    "run",
    "paper",
)


def check(verb: str, config: Config, flags: Collection[str] = ()) -> None:
    """Raise `UserError` if something is missing that ``btm <verb>`` with `config` would need, now
    or later.

    With --regrow among the `flags`, what stands with other settings is no hindrance.
    """
    if verb not in VERBS:
        return
    from btm.cli.preflight import names
    from btm.cli.preflight.by_verb import CHECKS
    from btm.steps.baselines import derive

    derived = derive(config) if verb == "run" else config
    for each in CHECKS[verb]:
        if not (each is names.standing_of_cycle and "--regrow" in flags):
            each(derived)
