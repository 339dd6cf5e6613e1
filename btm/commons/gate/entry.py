"""The entry of an admitted contribution into the forest, by the ordinary branch and merge."""

from pathlib import Path

from btm.commons.gate.contribution import Contribution
from btm.commons.gate.verdict import Verdict
from btm.forest import ELM, Forest, Terms
from btm.forest.terms import NONE_STATED


def enter(
    forest: Forest,
    name: str,
    contribution: Contribution,
    restored: Path,
    verdict: Verdict,
    terms: Terms = NONE_STATED,
) -> ELM:
    """Merge the model in `restored`, the `into` of an admitted `judge`, as the ELM `name`.

    Its card has the losses of the verdict and what the probes found; its steps and tokens are the
    sender's word, and a note says so. An ELM of that name with the same weights is returned as it
    is. Raises `UserError` if the verdict refused it, the name is taken, or `restored` holds other
    weights than were judged.
    """
    raise NotImplementedError
