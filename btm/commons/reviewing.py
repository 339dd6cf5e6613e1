"""`btm commons review`, `admit` and `reject`: a maintainer judges what was submitted.

First what the protocol can tell, from small objects; then the files come into quarantine, with
limits; then the gate looks at what is in them. A submission is refused for one named reason.
The protocol's are unknown-key, revoked-key, retired-key, signature, damaged, replay, not-wanted,
stale-parent, claim-lost and oversize; the gate's are the names of its checks.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from btm.commons import layout, signed
from btm.commons.base import base_of, require_base, weights_of
from btm.commons.bodies import SUBMITTED, Submission, Verdict
from btm.commons.checkpoints import download
from btm.commons.content import Gate, Judged
from btm.commons.layout import Work
from btm.commons.member import Member, enter
from btm.commons.opening import require_maintainer
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Snapshot, open_object
from btm.commons.standing import ADMITTED, current, is_stale, standing
from btm.commons.standing import SUBMITTED as WAITING
from btm.commons.together import rounds
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import Forest
from btm.interop import remote
from btm.interop.remote.manifest import Content
from btm.report import Reporter, quiet
from btm.system import durable
from btm.system.json_files import Json

_TEXT = 300  # characters of a verdict's text


@dataclass(frozen=True)
class Reviewed:
    """The decision on one submission."""

    domain: str
    number: int
    holder: str
    verdict: str  # admit | reject; admitted | rejected once it is in the store
    reason: str
    text: str


def review(config: Config, reporter: Reporter = quiet) -> list[Reviewed]:
    """Judge every submission that waits, or those of ``domain=NAME``; decide nothing."""
    member, gate = _maintainer(config, reporter)
    snapshot = member.look()
    found = []
    for work in waiting(snapshot, config.domain):
        with _judged(member, gate, snapshot, work, reporter) as (_, refused):
            found.append(_row(work, "reject" if refused else "admit", refused))
    return found


def admit(config: Config, reporter: Reporter = quiet) -> list[Reviewed]:
    """Judge every submission that waits, or those of ``domain=NAME``: what passes is merged into
    the forest and published, what does not is rejected. Each verdict is signed.

    Killed, the same command goes on. Raises `UserError` if nothing waits.
    """
    member, gate = _maintainer(config, reporter)
    done: list[Reviewed] = []
    for work in waiting(member.look(), config.domain):
        snapshot = member.look()  # again: what was admitted just now closes its domain
        with _judged(member, gate, snapshot, work, reporter) as (judged, refused):
            if refused is None:
                if judged:
                    sha256 = gate.enter(judged, contributors(snapshot, work))
                else:
                    sha256 = gate.forest[work.domain].card.sha256
                remote.push(_pushed(config, member, work.domain), reporter)
                facts = judged.verdict.to_json() if judged else {}
                done.append(_decide(member, gate.forest, work, None, sha256, facts))
            else:
                done.append(_decide(member, gate.forest, work, refused, "", {}))
        reporter.line(f"{work.domain}: {done[-1].verdict} {done[-1].reason}".rstrip())
    return done


def reject(config: Config) -> list[Reviewed]:
    """Reject the submissions of ``domain=NAME`` for `commons.reason`, whatever the gate says."""
    if config.domain is None or not config.commons.reason:
        raise UserError("which, and why? give domain=NAME commons.reason=TEXT")
    member, forest = enter(config), Forest(config.forest_root)
    require_maintainer(member)
    refused = RefusedError("maintainer", config.commons.reason)
    works = waiting(member.look(), config.domain)
    return [_decide(member, forest, work, refused, "", {}) for work in works]


def waiting(snapshot: Snapshot, domain: str | None) -> list[Work]:
    """List the submissions without a verdict, those that came first first."""
    found = [
        (works.submitted, work)
        for work, works in snapshot.works.items()
        if works.submitted is not None and work not in snapshot.verdicts
    ]
    chosen = [(when, work) for when, work in found if domain in (None, work.domain)]
    return [work for _, work in sorted(chosen, key=lambda pair: (pair[0], pair[1].key))]


def contributors(snapshot: Snapshot, work: Work) -> str:
    """Name who trained what was submitted: the holder of its claim, or all whose contributions
    the rounds counted, with the tokens of each.
    """
    if snapshot.charter.wanted[work.domain].together is None:
        return _named(snapshot, work.key)
    parts = rounds.tokens_by_key(rounds.progress(snapshot, work.domain))
    said = [f"{_named(snapshot, key)} {count:,} tokens" for key, count in parts.items()]
    return ", ".join(said)


def _named(snapshot: Snapshot, key: str) -> str:
    person = snapshot.people.get(key)
    return f"{person.name if person else '?'} (key {key})"


def check(member: Member, snapshot: Snapshot, work: Work) -> Submission:
    """Read a submission and check all that needs none of its files.

    Raises `RefusedError` with the reason: unknown-key, revoked-key, retired-key, signature,
    damaged, replay, not-wanted, stale-parent, claim-lost, oversize.
    """
    where = f"{member.place.url}: {work.submission}"
    submitted = snapshot.works[work].submitted
    _require_key(snapshot, work.key, submitted or 0.0, where)
    seen = member.place.read(work.submission, signed.MOST)
    if seen is None:
        raise RefusedError("damaged", f"{where}: it is gone")
    found = open_object(seen.content, Submission, member.commons, snapshot.public_of, where)
    if (found.holder, found.domain, found.number) != (work.key, work.domain, work.number):
        raise RefusedError("replay", f"{where}: of another claim or another person")
    if found.files.keys() != set(SUBMITTED) or found.sizes.keys() != found.files.keys():
        raise RefusedError("damaged", f"{where}: wanted the files {', '.join(SUBMITTED)}")
    wanted = snapshot.charter.wanted.get(work.domain)
    if wanted is None:
        raise RefusedError("not-wanted", f"{where}: the charter does not want {work.domain!r}")
    if (found.parents, found.base) != (wanted.parents, wanted.base):
        raise RefusedError("stale-parent", f"{where}: trained from other parents than are wanted")
    _require_claim(snapshot, work, where)
    size, most = sum(found.sizes.values()), snapshot.charter.policy.most_bytes
    if size > most:
        raise RefusedError("oversize", f"{where}: {size:,} bytes, and {most:,} are taken at most")
    return found


def _require_key(snapshot: Snapshot, key: str, when: float, where: str) -> None:
    if key not in snapshot.people:
        raise RefusedError("unknown-key", f"{where}: nobody registered the key {key}")
    end = snapshot.ended.get(key)
    # What a revoked key ever signed is refused: nobody knows since when another had it.
    if end is not None and (end.reason == "revoked" or when >= end.when):
        raise RefusedError(f"{end.reason}-key", f"{where}: its key {key} was {end.reason}")


def _require_claim(snapshot: Snapshot, work: Work, where: str) -> None:
    """Raise `RefusedError` unless the submission is of the claim that holds."""
    own = [c for c, _ in snapshot.claims.get(work.domain, []) if c.number == work.number]
    if any(is_stale(snapshot.charter, claim) for claim in own if claim.holder == work.key):
        raise RefusedError("stale-parent", f"{where}: its claim is of another branch")
    valid = current(snapshot, work.domain)
    held = valid is not None and (valid[0].holder, valid[0].number) == (work.key, work.number)
    state = standing(snapshot, work.domain).state
    if not held or state != WAITING:
        why = "the domain is admitted already" if state == ADMITTED else "another holds the claim"
        raise RefusedError("claim-lost", f"{where}: {why}")


@contextmanager
def _judged(
    member: Member,
    gate: Gate,
    snapshot: Snapshot,
    work: Work,
    reporter: Reporter,
) -> Iterator[tuple[Judged | None, RefusedError | None]]:
    """Yield what the gate let through, or why it was refused; its files are gone afterwards.

    Neither, if it stands in the forest: a command that was killed had admitted it.
    """
    quarantine = durable.scratch_folder(gate.forest.root)
    judged: Judged | None = None
    refused: RefusedError | None = None
    try:
        try:
            found = check(member, snapshot, work)
            if not _stands(gate.forest, found):
                judged = _judge(member, gate, work, found, quarantine, reporter)
        except RefusedError as error:
            refused = error
        yield judged, refused
    finally:
        shutil.rmtree(quarantine, ignore_errors=True)


def _judge(
    member: Member,
    gate: Gate,
    work: Work,
    found: Submission,
    quarantine: Path,
    reporter: Reporter,
) -> Judged:
    """Fetch the files of a submission and let the gate judge them; `RefusedError` if it refuses."""
    folder = _fetch(member, work, found, quarantine, reporter)
    with base_of(gate.forest, weights_of(found.parents), reporter.alive) as base:
        require_base(base, found.base, f"{work.domain!r}")
    return gate.judge(found, folder, quarantine / "restored")


def _stands(forest: Forest, found: Submission) -> bool:
    """Tell whether a submission was merged; `UserError` if another expert has its name."""
    if found.domain not in forest:
        return False
    if forest[found.domain].card.sha256 != found.sha256:
        raise UserError(
            f"{forest.root} has another expert {found.domain!r} than was submitted: reject it "
            f"(btm commons reject domain={found.domain}), and take the domain from what is wanted"
        )
    return True


def _fetch(
    member: Member, work: Work, found: Submission, quarantine: Path, reporter: Reporter
) -> Path:
    """Bring the files of a submission into quarantine; never a byte more than was signed."""
    size = sum(found.sizes.values())
    durable.require_space(quarantine, 3 * size)
    folder = quarantine / "files"
    folder.mkdir()
    for name in SUBMITTED:
        expected = Content(found.files[name], found.sizes[name])
        download(member.place, work.submitted(name), folder / name, expected)
        reporter.alive()
    return folder


def _maintainer(config: Config, reporter: Reporter) -> tuple[Member, Gate]:
    member = enter(config)
    require_maintainer(member)
    return member, Gate(config, Forest(config.forest_root), member.charter, reporter)


def _pushed(config: Config, member: Member, name: str) -> Config:
    return replace(config, expert=name, to=member.place.url.text, domain=None)


def _decide(
    member: Member,
    forest: Forest,
    work: Work,
    refused: RefusedError | None,
    sha256: str,
    facts: Json,
) -> Reviewed:
    """Write a verdict; one that another maintainer wrote first holds."""
    row = _row(work, "rejected" if refused else "admitted", refused)
    verdict = Verdict(
        commons=member.commons,
        domain=work.domain,
        number=work.number,
        holder=work.key,
        admitted=refused is None,
        reason=row.reason,
        text=row.text,
        sha256=sha256,
    )
    if not member.write(layout.verdict(work.domain, work.number, work.key), verdict):
        made = member.look().verdicts.get(work)
        if made is not None and made[0].admitted != verdict.admitted:
            raise UserError(
                f"{member.place.url}: another maintainer decided otherwise on {work.domain!r}: "
                f"{made[0].reason or 'admitted'}"
            )
    member.log(forest.root, row.verdict, submission=work.submission, reason=row.text, gate=facts)
    return row


def _row(work: Work, verdict: str, refused: RefusedError | None) -> Reviewed:
    reason, text = (refused.reason, str(refused)) if refused else ("", "")
    shown = "".join(c if c.isprintable() else "?" for c in text)[:_TEXT]
    return Reviewed(work.domain, work.number, work.key, verdict, reason, shown)
