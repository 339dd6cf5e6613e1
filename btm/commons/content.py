"""The content of a submission: what the gate says of it, and how it enters the forest."""

from dataclasses import dataclass
from pathlib import Path

from btm.commons.base import weights_of
from btm.commons.bodies import Charter, Submission
from btm.commons.gate import Contribution, Policy, Probes, Verdict, judge
from btm.commons.gate import enter as enter_forest
from btm.commons.gate.probes import NO_PROBES
from btm.commons.gate.reference import Reference
from btm.commons.signed import RefusedError
from btm.config.schema import Config
from btm.forest import Forest, Terms
from btm.forest.suites import open_suites
from btm.report import Reporter


@dataclass(frozen=True)
class Judged:
    """A submission that passed, its restored model, and what the gate measured."""

    contribution: Contribution
    restored: Path
    verdict: Verdict


class Gate:
    """The gate of a commons: its published bounds, the maintainers' probes and held-out text."""

    def __init__(
        self, config: Config, forest: Forest, charter: Charter, reporter: Reporter
    ) -> None:
        """Open the suites of the forest; `UserError` if there is none, or a bound is unknown."""
        self.config, self.forest = config, forest
        self.policy = Policy.from_json(charter.policy.gate, "commons.gate")
        probes = config.commons.probes
        self.probes = Probes.read(Path(probes)) if probes else NO_PROBES
        self.suite, self.reporter = open_suites(config), reporter
        self.renew()

    def renew(self) -> None:
        """Measure the forest's side again: an ELM entered."""
        self.reference = Reference(self.config, self.forest, self.suite, self.probes, self.reporter)

    def judge(self, submission: Submission, folder: Path, into: Path) -> Judged:
        """Judge the files of a submission in `folder`; its model is restored to `into`.

        Raises `RefusedError` with the name of the first check that failed.
        """
        contribution = Contribution(
            folder, submission.domain, weights_of(submission.parents), "delta8"
        )
        verdict = judge(
            self.config,
            self.forest,
            contribution,
            self.policy,
            self.suite,
            reference=self.reference,
            into=into,
            reporter=self.reporter,
        )
        if not verdict.admitted:
            failed = verdict.failed
            raise RefusedError(failed[0].name if failed else "incomplete", verdict.reason)
        if verdict.sha256 != submission.sha256:
            raise RefusedError("damaged", f"{submission.domain!r}: it gives other weights")
        return Judged(contribution, into, verdict)

    def enter(self, judged: Judged, by: str) -> str:
        """Merge what passed into the forest, and return the sha256 of its weights.

        Its card names who contributed it: `by`.
        """
        terms = Terms.of_config(self.config.card)
        name = judged.contribution.domain
        elm = enter_forest(
            self.forest, name, judged.contribution, judged.restored, judged.verdict, terms, by
        )
        self.renew()
        return elm.card.sha256
