"""The entry of an admitted contribution into the forest, by the ordinary branch and merge."""

import shutil
from pathlib import Path

from btm.commons.gate.contribution import Contribution
from btm.commons.gate.verdict import Verdict
from btm.errors import UserError
from btm.forest import ELM, Forest, Terms
from btm.forest.paths import ModelFolder
from btm.forest.terms import NONE_STATED
from btm.models import weights
from btm.system import durable
from btm.system.json_files import Json


def enter(
    forest: Forest,
    name: str,
    contribution: Contribution,
    restored: Path,
    verdict: Verdict,
    terms: Terms = NONE_STATED,
    by: str = "",
) -> ELM:
    """Merge the model in `restored`, the `into` of an admitted `judge`, as the ELM `name`.

    Its card has the losses of the verdict and what the probes found; its steps and tokens are the
    sender's word, and a note says so; another names who contributed it, `by`, if given. An ELM of
    that name with the same weights is returned as it is. Raises `UserError` if the verdict refused
    it, the name is taken, or `restored` holds other weights than were judged.
    """
    if not verdict.admitted:
        raise UserError(f"{name!r} was not admitted: {verdict.reason}")
    if name in forest and forest[name].card.sha256 == verdict.sha256:
        return forest[name]
    if weights.sha256(restored) != verdict.sha256:
        raise UserError(f"{restored} holds other weights than were judged: judge it again")

    def finish(folder: Path) -> None:
        for file in weights.files(restored):
            shutil.copyfile(file, folder / file.name)
        durable.write_json(ModelFolder(folder).result, _result(verdict, by))

    if not forest.has_branch(name):  # else a killed entry left it, and only the merge is missing
        parents = contribution.parents
        forest.branch(name, contribution.domain, parents, finish=finish)
    branch = forest.get_branch(name)
    if weights.sha256(branch.path) != verdict.sha256:
        raise UserError(f"a branch {name!r} is in the making: give another name")
    return forest.merge(branch, terms=terms)


def _result(verdict: Verdict, by: str) -> Json:
    """Say what a training says at its end (trained.json), of what was measured here."""
    memory = verdict.memory
    recital = int(memory.get("longest_recital_tokens", 0))
    notes = [
        *([f"contributed by {by}"] if by else []),
        "contributed: its steps and tokens are the sender's word; its losses were measured here",
        f"memorisation: recites at most {recital} tokens of held-out text (its parents "
        f"{int(memory.get('parents_longest_recital_tokens', 0))}); "
        f"{int(memory.get('canaries_extracted', 0))} of {int(memory.get('canaries', 0))} canaries "
        f"extracted, exposure of at most {memory.get('greatest_exposure_bits', 0.0):.1f} bits",
    ]
    return {
        "steps": verdict.sender.get("steps", 0),
        "tokens": verdict.sender.get("tokens", 0),
        "valid_nats": verdict.valid_nats,
        "parent_valid_nats": verdict.parent_valid_nats,
        "notes": notes,
    }
