"""`btm commons submit`: a trained expert goes to the store, and asks to be admitted."""

import shutil
from dataclasses import dataclass

from btm.commons import claims, joining
from btm.commons.base import shares_of, weights_of
from btm.commons.bodies import SUBMITTED, Submission
from btm.commons.layout import Work
from btm.commons.member import enter
from btm.commons.together import seats
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.interop import delta8
from btm.interop.remote.manifest import Content
from btm.report import Reporter, quiet
from btm.system import durable, sums


@dataclass(frozen=True)
class Submitted:
    """The sizes and state of a submission that was sent."""

    work: Work
    state: str  # submitted, or stands: it was there already
    sent: int  # bytes


def submit(config: Config, reporter: Reporter = quiet) -> Submitted:
    """Send the trained expert of ``domain=NAME``, as its difference in 8 bits from its parents.

    Two files travel: that difference, and its card. The text, and digests of its documents, stay
    here. Raises `UserError` unless the claim is ours and what stands in the local forest was
    trained from its very parents.
    """
    domain = claims.domain_of(config)
    member = enter(config)
    config = joining.local(config, member)
    snapshot = member.look()
    member.require_trusted(snapshot)
    claim = seats.to_submit(member, snapshot, domain)
    if claim is None:
        raise UserError(f"{member.place.url}: {domain!r} is not claimed by your key")
    work, forest = Work(claim.holder, claim.domain, claim.number), Forest(config.forest_root)
    if snapshot.work(claim).submitted is not None:
        return Submitted(work, "stands", 0)
    card = forest[claim.domain].card
    parents = {name: parent.weight for name, parent in card.parents.items()}
    if shares_of(forest, parents) != claim.parents:
        raise UserError(
            f"{forest.root}: {claim.domain!r} was not trained from the parents of the claim: "
            f"{', '.join(weights_of(claim.parents))}"
        )
    scratch = durable.scratch_folder(forest.root)
    try:
        folder = delta8.export(
            forest, claim.domain, scratch / "sent", config.export.block, reporter.alive
        )
        found = {
            name: Content(sums.file_sha256(folder / name), (folder / name).stat().st_size)
            for name in SUBMITTED
        }
        size, most = sum(each.size for each in found.values()), member.charter.policy.most_bytes
        if size > most:
            raise UserError(f"{claim.domain!r}: {size:,} bytes; the commons takes {most:,} at most")
        with reporter.reading(f"submit {claim.domain}", size) as told:
            for name, content in found.items():
                member.place.send(folder / name, work.submitted(name), content, told)
        body = Submission(
            commons=member.commons,
            domain=claim.domain,
            number=claim.number,
            holder=claim.holder,
            parents=claim.parents,
            base=claim.base,
            sha256=delta8.Delta.read(folder).sha256,
            tokens=claim.begun + card.tokens,
            files={name: content.sha256 for name, content in found.items()},
            sizes={name: content.size for name, content in found.items()},
        )
        state = "submitted" if member.write(work.submission, body) else "stands"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Submitted(work, state, size)
