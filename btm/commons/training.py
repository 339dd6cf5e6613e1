"""`btm commons train`: a volunteer trains the expert of a claimed domain on text of their own."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from btm import steps
from btm.commons import claims, joining, layout
from btm.commons.base import base_of, require_base, weights_of
from btm.commons.bodies import Claim
from btm.commons.checkpoints import Uploads, restore
from btm.commons.claims import Holding
from btm.commons.keeping import Keeper, Kept, kept
from btm.commons.member import Member, enter, recalled
from btm.commons.signed import RefusedError
from btm.commons.together import training as together
from btm.commons.together.points import Point
from btm.config.schema import Config
from btm.errors import TrainingStoppedError, UserError
from btm.forest import ELM, Forest
from btm.forest.suites import open_suites
from btm.models import weights
from btm.report import Reporter, quiet
from btm.system import durable
from btm.system.json_files import read_object

_NOTES = "commons.json"  # in the local forest: of which claim each branch is


@dataclass(frozen=True)
class Trained:
    """An expert that a volunteer trained, in their own forest."""

    elm: ELM
    claim: Claim
    steps: int


def train(config: Config, reporter: Reporter = quiet) -> Trained:
    """Train the expert of ``domain=NAME`` on the text in ``data.root``, which never leaves.

    It is claimed first, if it is not ours yet. The branch begins as the claim says, or with the
    last checkpoint of whoever held it before, and gets the ordinary training for the tokens that
    are left; where several volunteers share it, in rounds (together/training.py). Meanwhile a
    thread shows signs of life and uploads checkpoints. The same command goes on after a kill.
    Raises `LostClaimError` once the claim is another's, and `UserError` if the branch's parents
    here are not those of the commons.
    """
    domain = claims.domain_of(config)
    _require_dense(config)
    member = enter(config)
    config = joining.local(config, member)
    claim = joining.claim(config, member, domain, _speed(member))
    member.require_trusted(member.look())
    shared = claims.wanted_of(member, domain).together is not None
    train_it = _train_together if shared else _train
    with kept(Holding(member, claim), config.commons.every, reporter) as keeper:
        try:
            return train_it(config, member, claim, keeper, reporter)
        except TrainingStoppedError:
            if keeper.lost is not None:
                raise keeper.lost from None
            raise


def _train(
    config: Config, member: Member, claim: Claim, keeper: Keeper, reporter: Reporter
) -> Trained:
    domain = claim.domain
    forest, ours = _ready(config, member, claim, reporter)
    ours = replace(ours, trainer=replace(config.trainer, steps=_steps(config, claim)))
    with _base(forest, claim, reporter) as base:
        if domain not in forest:
            _begin(forest, member, claim, base, reporter)
            uploads = Uploads(
                keeper.holding, base, claim.base, config.export.block, _tokens_a_step(config)
            )
            keeper.watch(uploads, lambda: forest.get_branch(domain).path)
            steps.train(ours, domain, Kept(reporter, keeper))
            keeper.end_uploads()
            keeper.require_held()
            steps.merge(ours, domain, reporter)
        _require_of_claim(forest, claim)
        return Trained(forest[domain], claim, ours.trainer.steps)


def _train_together(
    config: Config, member: Member, claim: Claim, keeper: Keeper, reporter: Reporter
) -> Trained:
    """Take part in the rounds of a domain; the expert that comes of them enters the forest here."""
    domain = layout.domain_of(claim.domain)
    together.require_usable(config)
    forest, ours = _ready(config, member, claim, reporter)
    if domain in forest:
        return Trained(forest[domain], claim, forest[domain].card.steps)
    root = forest.root / "together" / domain
    ours_alone = root / f"{claim.domain}-{claim.number}"  # a claim hands in its own work alone
    with _base(forest, claim, reporter) as base:
        point = Point(base, claim.base, None)
        volunteer = together.Volunteer(ours, keeper, open_suites(ours), ours_alone, point, reporter)
        at, snapshot, last = volunteer.run()
        result = volunteer.trained(at, snapshot)
        if not forest.has_branch(domain):
            parents = weights_of(claim.parents)
            forest.branch(domain, domain, parents, finish=lambda made: _put(last.folder, made))
    ours = replace(ours, trainer=replace(ours.trainer, steps=max(1, result.steps)))
    steps.adopt(ours, domain, result, reporter)
    elm = steps.merge(ours, domain, reporter)
    durable.remove_folder(root)
    return Trained(elm, claim, elm.card.steps)


def _put(source: Path, target: Path) -> None:
    """Put the weights of a folder in place of those of another."""
    for file in weights.files(source):
        shutil.copyfile(file, target / file.name)


def _ready(
    config: Config, member: Member, claim: Claim, reporter: Reporter
) -> tuple[Forest, Config]:
    """Fetch the parents of a claim and prepare the text; return the forest, and the settings with
    the suite of that text.
    """
    domain = layout.domain_of(claim.domain)
    joining.fetch_parents(config, member, list(claim.parents), reporter)
    forest = Forest(config.forest_root)
    _require_parents(forest, claim)
    ours = _with_text(config, domain)
    if config.data.root is not None:
        steps.prepare(ours, reporter)
    open_suites(ours).shard(domain, "train")
    return forest, ours


def _require_dense(config: Config) -> None:
    """Raise `UserError` for ways of training whose checkpoints are no whole models."""
    trainer = config.trainer
    if trainer.adapter != "none" or trainer.delta_density != 1 or trainer.backend != "btm":
        raise UserError(
            "btm commons train trains all parameters by btm itself: leave out trainer.adapter, "
            "trainer.delta_density and trainer.backend"
        )


def _speed(member: Member) -> float:
    speed = recalled(member).get("speed")
    if not isinstance(speed, float):
        raise UserError(f"{member.place.url}: first btm commons join, which measures the speed")
    return speed


def _require_parents(forest: Forest, claim: Claim) -> None:
    """Raise `UserError` unless the parents that stand here are those of the claim."""
    for name, share in claim.parents.items():
        found = forest[name].card.sha256
        if found != share.sha256:
            raise UserError(
                f"{forest.root}: its {name!r} has the weights {found[:12]}, the commons means "
                f"{share.sha256[:12]}: give another forest=DIR"
            )


def _with_text(config: Config, domain: str) -> Config:
    """Return `config` with a suite of one domain: the text in data.root."""
    if config.data.root is None:
        return config
    source = replace(config.imports, source=config.data.root)
    return steps.text_of(replace(config, imports=source, domain=domain))


def _tokens_a_step(config: Config) -> int:
    return config.trainer.batch_size * config.trainer.seq_len


def _steps(config: Config, claim: Claim) -> int:
    """Return the training steps that the tokens of a claim come to."""
    return max(1, math.ceil((claim.tokens - claim.begun) / _tokens_a_step(config)))


@contextmanager
def _base(forest: Forest, claim: Claim, reporter: Reporter) -> Iterator[Path]:
    """Yield a folder with the weights that the branch of a claim begins with; they are checked."""
    with base_of(forest, weights_of(claim.parents), reporter.alive) as base:
        require_base(base, claim.base, f"{claim.domain!r}")
        yield base


def _begin(forest: Forest, member: Member, claim: Claim, base: Path, reporter: Reporter) -> None:
    """Make the branch of a claim, unless it stands; one of an earlier claim goes."""
    domain = claim.domain
    if forest.has_branch(domain) and _claim_of(forest, domain) != claim.number:
        with forest.hold(domain) as (left, _):
            durable.remove_folder(left.path)
    if forest.has_branch(domain):
        return
    _note(forest, claim)
    source = claim.taken_over

    def go_on(folder: Path) -> None:
        if source is None:
            return
        try:
            restore(member, member.look(), source, base, claim.base, folder)
        except RefusedError as error:
            raise UserError(
                f"{error}; give the claim back: btm commons leave domain={domain}"
            ) from None
        reporter.line(f"{domain}: goes on from {claim.begun:,} tokens of another holder")

    forest.branch(domain, domain, weights_of(claim.parents), alive=reporter.alive, finish=go_on)


def _require_of_claim(forest: Forest, claim: Claim) -> None:
    """Raise `UserError` if the expert that stands here is of an earlier claim."""
    if _claim_of(forest, claim.domain) != claim.number:
        raise UserError(
            f"{forest.root}: its {claim.domain!r} is of an earlier claim: give another forest=DIR"
        )


def _claim_of(forest: Forest, domain: str) -> int | None:
    file = forest.root / _NOTES
    found = read_object(file).get(domain) if file.exists() else None
    return found if isinstance(found, int) else None


def _note(forest: Forest, claim: Claim) -> None:
    """Note of which claim the branch of a domain is."""
    file = forest.root / _NOTES
    known = read_object(file) if file.exists() else {}
    durable.write_json(file, known | {claim.domain: claim.number})
