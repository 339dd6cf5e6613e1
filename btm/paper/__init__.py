"""The paper's tables: forests and baselines grown side by side, compared on the same documents.

`studies` lists what is grown, `pool` grows it, `losses` reduces every row to nats per document,
`bootstrap` compares rows, `ablations` vary one thing at a time, `report` and `figures` write the
results.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from btm.report import Reporter, quiet

if TYPE_CHECKING:
    from btm.config.schema import Config
    from btm.paper.studies import Study
    from btm.report.tables import TableRow


def reproduce(config: "Config", reporter: Reporter = quiet) -> Path:
    """Grow the missing studies of a reproduction, write its report and return its folder."""
    from btm.paper import report

    grown = grow_missing(config, reporter)
    reporter.line("measuring every row on every document")
    return report.write(config, grown)


def grow_missing(config: "Config", reporter: Reporter = quiet) -> "list[Study]":
    """Grow the studies of a reproduction that do not stand yet; return all of them."""
    from btm import steps
    from btm.data.prepare import training_domains
    from btm.paper.pool import Pool
    from btm.paper.studies import root, studies
    from btm.steps.standing import text_of

    _refuse_others(config, studies(config, _training(config, training_domains(config.data))))
    suite = steps.prepare(config, reporter)
    planned = studies(config, _training(config, suite.training_domains()))
    slots = config.paper.parallel or os.cpu_count() or 1
    Pool(root(config) / "studies", slots, reporter, text_of(suite)).grow(planned)
    return planned


def plan(config: "Config") -> "list[TableRow]":
    """Make a row for each study with its tokens, FLOPs and time, and one for the sum."""
    from btm.data.prepare import training_domains
    from btm.paper.forecast import forecast
    from btm.paper.studies import studies

    planned = studies(config, _training(config, training_domains(config.data)))
    _refuse_others(config, planned)
    return forecast(config, planned)


def _refuse_others(config: "Config", planned: "Sequence[Study]") -> None:
    """Raise `UserError` if a study stands that was grown with other settings."""
    from btm.paper.studies import ONE_MODEL, root
    from btm.steps import conflicts

    found: conflicts.Found = {}
    for study in planned:
        if study.kind == ONE_MODEL:  # in the folder of a forest that is looked at itself
            continue
        differing = conflicts.of_cycle(study.cycle, study.cycle.run.rounds)
        found |= {f"{study.name}/{name}": each for name, each in differing.items()}
    conflicts.refuse(config, found, root(config))


def _training(config: "Config", domains: list[str]) -> list[str]:
    from btm.errors import UserError

    if not config.paper.name:
        raise UserError("which size? btm paper size=smoke, small, day or paper")
    for added in config.paper.added:
        if added in domains:
            raise UserError(f"paper.added: {added!r} is a training domain already")
    if config.eval.domains and not set(config.eval.domains) & {*domains, *config.paper.added}:
        raise UserError(
            f"eval.domains={config.eval.domains}: none is trained on, and rows are compared on "
            f"such first; name some of {', '.join(domains)} too"
        )
    return domains
