"""The content of a submission: what the gate says of it, and how it enters the forest."""

from dataclasses import dataclass, replace
from pathlib import Path

from btm.commons.bodies import Charter, Submission
from btm.commons.signed import RefusedError
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.interop import delta8
from btm.report import Reporter
from btm.steps import received


@dataclass(frozen=True)
class Judged:
    """A submission that passed: where its files are, and what it is."""

    submission: Submission
    folder: Path


def judge(
    config: Config,
    forest: Forest,
    charter: Charter,
    submission: Submission,
    folder: Path,
    reporter: Reporter,
) -> Judged:
    """Judge the files of a submission; `RefusedError` with the reason if they are refused."""
    try:
        delta = delta8.Delta.read(folder)
    except UserError as error:
        raise RefusedError("damaged", str(error)) from None
    if delta.sha256 != submission.sha256 or delta.card.name != submission.domain:
        raise RefusedError("damaged", f"{submission.domain!r}: its card is of another expert")
    return Judged(submission, folder)


def enter(config: Config, forest: Forest, judged: Judged, reporter: Reporter) -> str:
    """Merge what passed into the forest, and return the sha256 of its weights."""
    name = judged.submission.domain
    measure = received.measuring(replace(config, domain=None), reporter)
    elm = delta8.enter(
        forest, judged.folder, name, replace(config, domain=name), measure, reporter.alive
    )
    return elm.card.sha256
