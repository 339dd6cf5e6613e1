"""The ELMs that a new one is initialised from, as weights=, branch= and parent= say."""

from btm.config.checks import check_weights
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest


def origin_of(
    config: Config, forest: Forest, among: list[str] | None
) -> tuple[str, tuple[str, ...]]:
    """Say in words how a new ELM is initialised, and the ELMs that it is initialised from.

    A posterior may give some of them no weight.
    """
    if config.weights is not None:
        parents = [forest[parent].name for parent in check_weights(config.weights)]
        return f"average {', '.join(parents)} with the given weights", tuple(parents)
    if config.branch == "copy":
        parent = copied(config, forest)
        return f"copy {parent}", (parent,)
    names = tuple(elm.name for elm in forest.experts(among))
    return (
        f"copy {names[0]}" if len(names) == 1 else f"{config.branch} of {', '.join(names)}"
    ), names


def copied(config: Config, forest: Forest) -> str:
    """Return the one parent of branch=copy."""
    if config.parent:
        return forest[config.parent].name
    if config.seed.name in forest:
        return config.seed.name
    raise UserError(f"branch=copy needs parent=NAME; have: {', '.join(forest.names()) or 'none'}")
