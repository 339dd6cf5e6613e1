"""The verbs that ask what a forest holds."""

from typing import Any

from btm.config import Config
from btm.verbs.output import Output, expert_of, show_elm


def ls(config: Config, out: Output) -> None:
    """List the ELMs of a forest, and the branches in the making.

    example: btm ls forest=experts/demo --json
    """
    from btm.forest import Forest

    forest = Forest(config.forest_root)
    rows: list[dict[str, Any]] = [
        {
            "name": elm.name,
            "state": "ELM",
            "domains": elm.card.domains,
            "parents": {name: round(parent.weight, 4) for name, parent in elm.card.parents.items()},
            "tokens": elm.card.tokens,
            "valid nats": elm.card.valid_nats,
            "sha256": elm.card.sha256[:12],
        }
        for elm in forest.elms()
    ]
    rows += [
        {
            "name": made.name,
            "state": "trained branch" if made.result else "branch",
            "domains": made.domains,
            "parents": {name: round(parent.weight, 4) for name, parent in made.parents.items()},
            "tokens": None,
            "valid nats": None,
            "sha256": "",
        }
        for made in forest.branches()
    ]
    out.rows(rows, f"forest {forest.root}")


def show(config: Config, out: Output) -> None:
    """Show what an ELM's card says.

    example: btm show experiment=demo expert=bible
    """
    from btm.forest import Forest

    show_elm(Forest(config.forest_root)[expert_of(config)], out)
