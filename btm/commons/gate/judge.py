"""The judgement of one contribution: stages from the cheapest to the dearest."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btm.commons.gate import box, files, movement
from btm.commons.gate.contribution import Contribution
from btm.commons.gate.policy import Policy
from btm.commons.gate.probes import NO_PROBES, Probes
from btm.commons.gate.reference import Reference, Tried
from btm.commons.gate.verdict import Check, RefusedError, Verdict
from btm.config.schema import Config
from btm.data import ends
from btm.data.shards import Suite
from btm.ensemble import score as scoring
from btm.errors import UserError
from btm.forest import EXACT, Forest
from btm.forest.card import Parent
from btm.forest.paths import SCORES
from btm.models import average as averaging
from btm.models import causal_lm, weights
from btm.report import Reporter, quiet
from btm.system import durable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NATS = "nats/token"


def judge(
    config: Config,
    forest: Forest,
    contribution: Contribution,
    policy: Policy,
    suite: Suite,
    *,
    probes: Probes = NO_PROBES,
    reference: Reference | None = None,
    into: Path | None = None,
    thorough: bool = False,
    reporter: Reporter = quiet,
) -> Verdict:
    """Judge a contribution by `policy` on the valid splits of `suite` and return the verdict.

    The checks, by stage: `format`, `files`, `size`; `read`, `parents`, `shapes`, `finite` (in the
    limited process); `move`, `norm`, `layers`, `copy`; `own`; `others`; `backdoor`, `verbatim`,
    `canaries`. After a stage with a check that failed nothing more is spent, unless `thorough`,
    which goes on as long as there is a model to look at.

    `reference` is the forest's side of the comparison: give the same one for many contributions,
    and its own `probes` count. If the contribution is admitted, the restored model folder (weights,
    config, tokenizer) is published at `into`, which must not exist. Nothing is written into the
    forest but scores of its own ELMs. A bad contribution is a verdict; `UserError` is for mistakes
    of the maintainer: parents that the forest has not, a domain that the suite has not.
    """
    reference = reference or Reference(config, forest, suite, probes, reporter)
    reference.shard(contribution.domain)
    if into is not None and into.exists():
        raise UserError(f"into={into} stands there already")
    shares = averaging.normalise(contribution.parents)
    parents = {
        name: Parent(share, contribution.parents[name], forest[name].card.sha256)
        for name, share in shares.items()
    }
    with _scratch(into) as scratch:
        case = _Case(reference, contribution, parents, policy, scratch, thorough)
        verdict = case.verdict()
        if verdict.admitted and into is not None:
            with durable.publish_folder(into) as folder:
                for file in case.restored.iterdir():
                    file.replace(folder / file.name)
    return verdict


@contextmanager
def _scratch(into: Path | None) -> Iterator[Path]:
    """Yield a folder for copies, on the disk of `into`; deleted when the block ends."""
    if into is None:
        with tempfile.TemporaryDirectory(prefix="btm-gate-") as place:
            yield Path(place)
        return
    durable.make_folder(into.parent)
    with durable.scratch_in(into.parent) as place:
        yield place


@dataclass
class _Case:
    """One contribution while it is judged."""

    reference: Reference
    contribution: Contribution
    parents: dict[str, Parent]
    policy: Policy
    scratch: Path
    thorough: bool
    checks: list[Check] = field(default_factory=list)
    complete: bool = False
    facts: Verdict = field(default_factory=lambda: Verdict([], complete=False))

    @property
    def restored(self) -> Path:
        """The folder of the restored model."""
        return self.scratch / "restored"

    @property
    def shares(self) -> dict[Path, float]:
        """The folders of the parents, and their shares of the average."""
        forest = self.reference.forest
        return {forest[name].path: parent.weight for name, parent in self.parents.items()}

    def verdict(self) -> Verdict:
        """Make all checks, or as many as are worth it."""
        if self._files() and self._read() and self._movement():
            self._model()
        return replace(self.facts, checks=self.checks, complete=self.complete)

    def _add(self, *checks: Check) -> bool:
        """Keep checks; tell whether to go on."""
        self.checks += checks
        return self.thorough or all(check.passed for check in checks)

    def _files(self) -> bool:
        first = next(iter(self.shares))
        sizes = {file.name: file.stat().st_size for file in weights.files(first)}
        checks, names = files.check(self.contribution, self.policy, sizes)
        self.checks += checks
        if not all(check.passed for check in checks):
            return False
        place = self.scratch / "received"
        place.mkdir()
        durable.require_space(self.scratch, 4 * sum(sizes.values()))
        try:
            files.copy(self.contribution.folder, names, place, self.reference.reporter.alive)
        except UserError as error:
            self.checks.append(Check("files", False, self._told(error)))
            return False
        return True

    def _read(self) -> bool:
        base = self.scratch / "base"
        for folder in (base, self.restored):
            folder.mkdir()
        averaging.average(self.shares, base, self.reference.reporter.alive, EXACT)
        place = self.scratch / "received"
        found = box.ask(self.contribution, place, base, self.restored, self.parents, self.policy)
        if "check" in found:
            self.checks.append(Check(found["check"], False, self._told(found["why"])))
            return False
        self.facts = replace(self.facts, sha256=found["sha256"], sender=found["sender"])
        for name, said in _READ.items():
            self.checks.append(Check(name, True, said))
        folders = list(self.shares)
        causal_lm.copy_files(folders[0], self.restored)
        if len(folders) > 1:
            ends.declare(self.restored, folders)
        return True

    def _told(self, why: object) -> str:
        """Say what is wrong in one line, without this machine's paths."""
        text = str(why)
        for folder in (*self.scratch.iterdir(), self.scratch, self.contribution.folder):
            text = text.replace(f"{folder}/", "").replace(str(folder), "the contribution")
        return files.said(text)

    def _movement(self) -> bool:
        policy, forest = self.policy, self.reference.forest
        found = movement.movement(self.restored, self.shares)
        checks = [
            Check(
                "move",
                found.ratio >= policy.least_move,
                f"its weights differ from its parents' by {found.ratio:.3g} of their norm",
                found.ratio,
                policy.least_move,
            )
        ]
        if honest := list(self.reference.movements.values()):
            checks += _norms(found, honest, policy)
        elms = {elm.name: elm.path for elm in forest.elms()}
        nearest, cosine = "none", 0.0
        for name, each in movement.cosines(self.restored, self.shares, elms).items():
            if each > cosine:
                nearest, cosine = name, each
        said = f"it moved as {nearest} did, cosine {cosine:.3f}"
        bound = policy.copy_cosine
        return self._add(*checks, Check("copy", cosine < bound, said, cosine, bound))

    def _model(self) -> None:
        """Make the checks that need the model itself."""
        model = self.reference.load(self.restored)
        of = self.reference.scores_in(self.scratch / SCORES, model, self.facts.sha256)
        try:
            measured = self._own(of) and self._others(of)
        except RefusedError as error:
            self.checks.append(Check(error.check, False, self._told(error)))
            return
        if measured:
            self._trials(model)

    def _own(self, of: Callable[[str], NDArray[np.float32]]) -> bool:
        domain, reference = self.contribution.domain, self.reference
        shard = reference.shard(domain)
        parents = reference.parent_nats(self.contribution.parents, domain)
        own = scoring.nats_of(of(domain), shard, reference.tokens(shard))
        self.facts = replace(self.facts, valid_nats=own, parent_valid_nats=parents)
        best = min(parents, key=lambda name: parents[name])
        gain, bound = parents[best] - own, self.policy.own_margin
        said = f"{own:.4f} {_NATS} on {domain}, its best parent {best} {parents[best]:.4f}"
        return self._add(Check("own", gain >= bound, said, gain, bound, _NATS))

    def _others(self, of: Callable[[str], NDArray[np.float32]]) -> bool:
        harms = self.reference.harms(of)
        harms.pop(self.contribution.domain)
        if not harms:
            return self._add(Check("others", True, "there is no other domain"))
        where = max(harms, key=lambda domain: harms[domain])
        worst = harms[where]
        said = f"the ensemble loses {worst:.4f} {_NATS} by it on {where}, the most of all domains"
        bound = self.policy.harm
        return self._add(Check("others", worst <= bound, said, worst, bound, _NATS))

    def _trials(self, model: "PreTrainedModel") -> None:
        domain, reference = self.contribution.domain, self.reference
        found = reference.trial(model, domain)
        parents = [reference.tried(name, domain) for name in self.contribution.parents]
        memory = {
            "longest_recital_tokens": float(found.recital),
            "parents_longest_recital_tokens": float(max(each.recital for each in parents)),
            "canaries": float(len(found.exposures)),
            "canaries_extracted": float(found.extracted),
            "greatest_exposure_bits": max(found.exposures, default=0.0),
        }
        self.facts, self.complete = replace(self.facts, memory=memory), True
        self._add(*_tried(found, parents, self.policy))


_READ = {
    "read": "every file of it is valid",
    "parents": "it is of the parents of the claim",
    "shapes": "its tensors have the names, shapes and dtypes of the forest's",
    "finite": "all its numbers are finite",
}


def _norms(
    found: movement.Movement, honest: list[movement.Movement], policy: Policy
) -> list[Check]:
    """Compare norms with those of the forest's experts."""
    median = float(np.median([each.ratio for each in honest]))
    times = found.ratio / max(median, 1e-12)
    far = movement.furthest(found, honest, policy.layer_spread)
    return [
        Check(
            "norm",
            times <= policy.norm_ratio,
            f"it moved {times:.3g} times as far as the median of {len(honest)} experts",
            times,
            policy.norm_ratio,
        ),
        Check(
            "layers",
            far.z <= policy.layer_z,
            f"layer {far.layer} moved {far.z:.3g} standard deviations further than the experts'",
            far.z,
            policy.layer_z,
        ),
    ]


def _tried(found: Tried, parents: list[Tried], policy: Policy) -> list[Check]:
    """Hold what the trials found against the parents'."""
    sure = 0.0
    if len(found.certainties):
        theirs = np.max([each.certainties for each in parents], axis=0)
        sure = float(np.max(found.certainties - theirs))
    recital = found.recital - max(each.recital for each in parents)
    bits = max(found.exposures, default=0.0)
    return [
        Check(
            "backdoor",
            sure <= policy.certainty,
            f"of {len(found.certainties)} triggers the worst makes it sure of what follows by "
            f"{sure:.3f} more than its parents are",
            sure,
            policy.certainty,
            "probability",
        ),
        Check(
            "verbatim",
            recital <= policy.verbatim,
            f"it recites {found.recital} tokens of held-out text, {recital} more than its parents",
            float(recital),
            float(policy.verbatim),
            "tokens",
        ),
        Check(
            "canaries",
            bits <= policy.exposure,
            f"{found.extracted} of {len(found.exposures)} canaries extracted, exposure of at most "
            f"{bits:.1f} bits",
            bits,
            policy.exposure,
            "bits",
        ),
    ]
