"""Names that would stand for two things at once: an ELM and the seed, a forest and a baseline."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from btm.config.choices import BASELINES
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest

# An ELM that each kind of baseline makes, whatever its domains are (btm/steps/baselines/derive.py).
_MARKS = {
    "dense": "dense",
    "dense_large_batch": "dense",
    "random_split": "random-0",
    "demix": "demix",
}


def require_apart(config: Config, domains: Iterable[str]) -> None:
    """Raise `UserError` if an expert of one of `domains` would be called as the seed is.

    It would stand before it was trained: an expert is named after its domain.
    """
    if config.seed.name in domains:
        raise UserError(
            f"a domain is called {config.seed.name!r}, as the seed is, so its expert could not be "
            "told from it: give seed.name=root, or that domain another name"
        )


def require_own_forest(config: Config) -> None:
    """Raise `UserError` if a baseline would grow in a forest that is none, or the reverse."""
    root, kind = Path(config.forest_root), config.baseline
    if kind is not None:
        if Forest.stands(root) and not is_baseline(root, kind, besides=config.seed.name):
            raise UserError(
                f"baseline={kind} of {config.base_root} grows in {root}, and there stands a forest "
                f"of its own ({', '.join(Forest(root).names())}): move one of them, and give "
                "forest= its new place"
            )
        return
    for kind in BASELINES if Forest.stands(root) else ():
        base = root.with_name(root.name.removesuffix(f"-{kind}"))
        if base != root and Forest.stands(base) and _MARKS[kind] in Forest(root):
            raise UserError(
                f"{root} is the baseline {kind} of {base}: give "
                f"{shlex.quote(f'forest={base}')} baseline={kind} to "
                "go on with it, or another forest=DIR"
            )


def is_baseline(root: Path, kind: str, besides: str = "") -> bool:
    """Tell whether the forest at `root` was begun as a baseline of a `kind`, by its ELMs.

    One that has none beside the ELM `besides`, such as the seed that it shares, may become one.
    """
    forest, mark = Forest(root), _MARKS[kind]
    return mark in forest or forest.has_branch(mark) or not set(forest.names()) - {besides}
