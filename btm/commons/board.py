"""The board of a commons: who does what, how far, since when; as rows, and as a page in the store.

The page is one HTML file without scripts and without anything from elsewhere.
"""

import html
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from btm.commons import layout
from btm.commons.claims import name_of, read_checkpoint
from btm.commons.layout import Work
from btm.commons.member import Member
from btm.commons.snapshot import Snapshot
from btm.commons.standing import HELD, WANTED, current, standing
from btm.commons.together import rounds
from btm.commons.together.rounds import Progress
from btm.report.progress import count_text, duration

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid #ccc}progress{width:8rem}@media(prefers-color-scheme:dark){
body{background:#111;color:#ddd}td,th{border-color:#444}}"""


@dataclass(frozen=True)
class Row:
    """One domain on the board, or one seat of it (``law@2``)."""

    domain: str
    state: str
    who: str
    tokens: int  # trained on so far, as the last checkpoint says
    wanted: int
    speed: float  # tokens per second, as the holder measured
    since: str  # UTC, when it was claimed
    seen: str  # UTC, the last sign of life
    note: str


def rows(member: Member, snapshot: Snapshot, now: float) -> list[Row]:
    """Make a row for each wanted domain, and for each seat of one that several volunteers train;
    `now` is the store's time.
    """
    made: list[Row] = []
    for domain, wanted in sorted(snapshot.charter.wanted.items()):
        row = _row(member, snapshot, domain, now)
        if wanted.together is None:
            made.append(row)
            continue
        at = rounds.progress(snapshot, domain)
        seats = layout.seats(domain, wanted.together.volunteers)
        others = [_row(member, snapshot, seat, now) for seat in seats[1:]]
        parts = rounds.tokens_by_key(at)
        here = [_seat(snapshot, at, each, parts) for each in [row, *others]]
        note = _round(snapshot, at, now) if row.state in (HELD, WANTED) else row.note
        made.append(replace(here[0], tokens=at.tokens, note=note))
        # Once it is submitted the seats are of no more use.
        made += here[1:] if row.state in (HELD, WANTED) else []
    return made


def _round(snapshot: Snapshot, at: Progress, now: float) -> str:
    """Say how far the round is that goes on."""
    if at.is_over:
        return f"{len(at.ends)} rounds done; to be submitted by {at.domain!r}, the first seat"
    live = rounds.live(snapshot, at.domain, now)
    done = sum(rounds.handed_in(snapshot, claim, at) for claim in live)
    return f"round {at.number}: {done} of {len(live)} handed in, {at.together.volunteers} seats"


def _seat(snapshot: Snapshot, at: Progress, row: Row, parts: dict[str, int]) -> Row:
    """Add to the row of a seat what its holder contributed, and whether to this round."""
    found = current(snapshot, row.domain)
    if found is None or row.state != HELD:
        return row
    did = "handed in" if rounds.handed_in(snapshot, found[0], at) else "at work"
    tokens = parts.get(found[0].holder, 0)
    return replace(row, tokens=tokens, note=f"round {at.number}: {did}; {row.note}")


def _row(member: Member, snapshot: Snapshot, domain: str, now: float) -> Row:
    found = standing(snapshot, domain, now)
    wanted = snapshot.charter.wanted[layout.domain_of(domain)]
    claim = found.claim
    if claim is None:
        return Row(domain, found.state, "", 0, wanted.tokens, 0.0, "", "", found.why)
    works = snapshot.work(claim)
    seen = max([found.since, *works.signs.values()])
    note = found.why if found.state == WANTED else ""
    if found.state == HELD:
        note = f"free in {duration(max(0.0, found.free_from - now))} without a sign of life"
    return Row(
        domain=domain,
        state=found.state,
        who=name_of(snapshot, claim.holder),
        tokens=_tokens(member, snapshot, Work(claim.holder, domain, claim.number)),
        wanted=claim.tokens,
        speed=claim.speed,
        since=moment(found.since),
        seen=moment(seen),
        note=note,
    )


def _tokens(member: Member, snapshot: Snapshot, work: Work) -> int:
    """Read the tokens that the last checkpoint of a claim has seen."""
    works = snapshot.works.get(work)
    if works is None or not works.checkpoints:
        return 0
    name = work.checkpoint(max(works.checkpoints))
    base = snapshot.charter.wanted[layout.domain_of(work.domain)].base
    found = read_checkpoint(member, snapshot, name, base)
    return found.tokens if found else 0


def moment(seconds: float) -> str:
    """Write a moment of the store's clock, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def status(member: Member) -> tuple[list[Row], Snapshot]:
    """Look at a commons now, and make its rows."""
    snapshot = member.look()
    return rows(member, snapshot, member.now()), snapshot


def publish(member: Member, made: list[Row]) -> None:
    """Write the board's page into the store."""
    member.place.put(layout.BOARD, page(member, made).encode())


def page(member: Member, made: list[Row]) -> str:
    """Write the board as a page of its own; every word from outside is escaped."""
    name = html.escape(member.charter.forest)
    names = ["domain", "state", "who", "trained", "since (UTC)", "last seen (UTC)", "note"]
    head = "".join(f"<th>{each}</th>" for each in names)
    body = "\n".join(_cells(row) for row in made)
    done = sum(row.state == "admitted" for row in made)
    domains = {layout.domain_of(row.domain) for row in made}
    when = moment(member.now())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><h1>{name}</h1><p>{done} of {len(domains)} experts admitted; "
        f"written {when} UTC.</p><table><tr>{head}</tr>\n{body}</table></html>\n"
    )


def _cells(row: Row) -> str:
    trained = (
        f'<progress max="{row.wanted}" value="{min(row.tokens, row.wanted)}"></progress> '
        f"{count_text(row.tokens)} of {count_text(row.wanted)}"
    )
    texts = [row.domain, row.state, row.who, None, row.since, row.seen, row.note]
    cells = [trained if each is None else html.escape(each) for each in texts]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def shown(made: list[Row]) -> list[dict[str, object]]:
    """Make the rows of a table."""
    return [asdict(row) for row in made]
