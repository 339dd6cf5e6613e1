"""Four uneven volunteers on the real protocol and the ordinary training: one is killed, one joins
late, one is too slow for a round; the store's clock is turned.
"""

from dataclasses import replace

import pytest
from people import LEASE, Town, submit

from btm.cli.compose import compose
from btm.commons import board, layout
from btm.commons.bodies import Counted, Round, Share, Together, Verdict
from btm.commons.claims import Holding
from btm.commons.keeping import Keeper
from btm.commons.snapshot import SLACK
from btm.commons.together import rounds, seats
from btm.commons.together.points import Point
from btm.commons.together.training import Volunteer
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.models import weights
from btm.report import Reporter

pytestmark = [pytest.mark.slow, pytest.mark.traced]
DOMAIN, STEP = "speeches", 2 * 16  # tokens; a step of all together has two of these
ROUND = 4 * STEP  # tokens
SECONDS = 10_000.0
# Rounds are too short to measure a speed in, so that of the claim stands.
SPEEDS = {"ann": 2.0, "ben": 1.0, "cem": 1.0, "dan": 1.0}


class Slow(Reporter):
    """Lets something happen once, in the middle of a training."""

    def __init__(self):
        self.meanwhile, self.said = None, []

    def line(self, text):
        self.said.append(text)

    def pulse(self, step):
        happens, self.meanwhile = self.meanwhile, None
        if happens:
            happens()
        return False


class Together4:
    """A commons in memory that wants an expert of four seats, and its volunteers."""

    def __init__(self, workspace, root, rounds_wanted):
        self.config = compose(
            [
                *workspace,
                *("trainer.batch_size=4", "trainer.seq_len=16", "trainer.threads=1"),
                *("trainer.lr=1e-3", "trainer.carry=fresh", "trainer.warmup=0", "export.block=64"),
            ]
        )
        self.root, self.town, self.suite = root, Town(), open_suites(self.config)
        seed = Forest(self.config.forest_root)["seed"]
        self.base = Point(seed.path, seed.card.sha256, None)
        self.rules = Together(4, ROUND, SECONDS, 0.7, 0.9)
        wanted = replace(
            self.town.maintainer.charter.wanted["law"],
            tokens=rounds_wanted * ROUND,
            parents={"seed": Share(1.0, seed.card.sha256)},
            base=seed.card.sha256,
            together=self.rules,
        )
        policy = self.town.maintainer.charter.policy
        policy = replace(policy, most_bytes=10_000_000, stall=10 * SECONDS)
        self.town.amend(wanted={DOMAIN: wanted}, policy=policy)

    def join(self, name):
        member = self.town.volunteer(name)
        seats.take(member, DOMAIN, SPEEDS[name])
        return self.volunteer(member, name)

    def volunteer(self, member, name):
        """Somebody with a seat, who has what stands in their folder."""
        claim = seats.own(member, member.look(), DOMAIN)
        keeper = Keeper(Holding(member, claim), 1e9, print)
        root = self.root / name
        return Volunteer(self.config, keeper, self.suite, root, self.base, Slow())

    def at(self):
        return rounds.progress(self.town.maintainer.look(), DOMAIN)

    def board(self):
        rows, _ = board.status(self.town.maintainer)
        return {row.domain: row for row in rows}


@pytest.fixture(scope="module")
def team(grown, workspace, tmp_path_factory):
    return Together4(workspace, tmp_path_factory.mktemp("together"), 5)


def counted(end):
    """How many steps each seat has in a round, by seat and round that they were trained in."""
    found = {}
    for name, part in end.counted.items():
        *_, seat, _, _, _, file = name.split("/")
        found[seat, int(file.removesuffix(".json"))] = part.tokens // STEP
    return found


def test_uneven_volunteers_come_to_one_expert(team):
    ann, ben, cem = (team.join(name) for name in ("ann", "ben", "cem"))
    for each in (ann, ben, cem):
        each.go_on()
    assert "round 1: 3 of 3 handed in" in team.board()[DOMAIN].note
    ann.go_on()
    (end,) = team.at().ends
    # Shares by speed among those who are there.
    assert counted(end) == {(DOMAIN, 1): 2, (f"{DOMAIN}@2", 1): 1, (f"{DOMAIN}@3", 1): 1}

    # Dan joins late, at the point that the others are at; Ben is killed after he trained.
    dan = team.join("dan")
    for each in (ann, dan, cem):
        each.go_on()
    points = {each.points.get(end.sha256).momentum.read_bytes() for each in (ann, cem, dan)}
    assert len(points) == 1
    assert weights.sha256(dan.points.get(end.sha256).folder) == end.sha256
    _, at, point = ben._sync()
    ben._train(team.town.maintainer.look(), at, point)
    sent = (ben.root / "sent/1-2/difference.safetensors").read_bytes()
    ann.go_on()
    assert len(team.at().ends) == 1  # Ben's lease is not over
    team.town.clock.now += LEASE + 2
    for each in (ann, cem, dan):
        each.keeper.holding.beat()
    dan.go_on()
    assert [len(end.counted) for end in team.at().ends] == [3, 3]

    # Ben is back, and brings what he had trained: it counts a round later.
    ben = team.volunteer(ben.member, "ben")
    ben._hand_in(at)
    assert (ben.root / "sent/1-2/difference.safetensors").read_bytes() == sent
    for each in (ann, ben, dan):
        each.keeper.holding.beat()
        each.go_on()

    # Cem is so slow that the round is closed without him, in the middle of his training.
    def meanwhile():
        team.town.clock.now += SECONDS
        for each in (ann, ben, cem, dan):
            each.keeper.holding.beat()
        ann.go_on()

    cem.reporter.other.meanwhile = meanwhile
    cem.keeper.holding.beat()
    cem.go_on()
    third = counted(team.at().ends[2])
    assert (f"{DOMAIN}@2", 2) in third and (f"{DOMAIN}@3", 3) not in third and len(third) == 4
    assert team.board()[f"{DOMAIN}@3"].note.startswith("round 4: at work")
    for each in (ann, ben, cem, dan):
        each.go_on()
    ann.go_on()
    assert (f"{DOMAIN}@3", 3) in counted(team.at().ends[3])

    everybody = (ann, ben, cem, dan)
    while not team.at().is_over:
        for each in everybody:
            each.keeper.holding.beat()
            each.go_on()
    ended = [each.run() for each in everybody]
    (last,) = {point.sha256 for _, _, point in ended}
    at, snapshot, point = ended[0]
    assert at.tokens >= at.wanted.tokens and last != team.base.sha256
    parts = rounds.tokens_by_key(at)
    assert sum(parts.values()) == at.tokens and len(parts) == 4
    trained = ann.trained(at, snapshot)
    assert trained.tokens == at.tokens and "ann" in trained.notes[0] and "dan" in trained.notes[0]
    assert "rounds done" in team.board()[DOMAIN].note

    # Somebody who was never there computes the same from what stands in the store.
    fresh = team.volunteer(dan.member, "elsewhere")
    assert fresh.run()[2].sha256 == last


def test_an_end_that_says_other_weights_is_ignored(grown, workspace, tmp_path):
    """So is a contribution whose file is not what was signed, and one that weighs too much."""
    team = Together4(workspace, tmp_path, 2)
    ann, ben, cem = (team.join(name) for name in ("ann", "ben", "cem"))
    for each in (ann, ben, cem):
        each.go_on()
    place, snapshot, at = team.town.place, team.town.maintainer.look(), team.at()
    made = rounds.waiting(snapshot, at)
    mine = next(name for name in made if made[name].holder == cem.claim.holder)
    file = cem.work.moved(1, made[mine].sha256)
    place.put(file, place.objects[file][0][:-1] + b"x")
    lie = Round(
        commons=ben.member.commons,
        domain=DOMAIN,
        course=1,
        round=1,
        attempt=1,
        closer=ben.claim.holder,
        before=team.base.sha256,
        counted={n: Counted(each.sha256, each.tokens) for n, each in made.items() if n != mine},
        sha256="1" * 64,
        momentum="2" * 64,
    )
    assert ben.member.write(f"{layout.rounds(DOMAIN, 1, 1)}/1.json", lie)
    while not (
        ends := rounds.progress(team.town.maintainer.look(), DOMAIN, frozenset({(1, 1, 1)})).ends
    ):
        ann.go_on()
    assert ends[0].attempt == 2 and set(ends[0].counted) == set(lie.counted)
    assert any("wrong, and ignored" in said for said in ann.reporter.other.said)
    assert any("not the bytes that were signed" in said for said in ann.reporter.other.said)
    heavy = replace(made[mine], tokens=ROUND + 1)
    assert not rounds._fits(at, mine, heavy, 10**9) and rounds._fits(at, mine, made[mine], 10**9)


def test_after_a_rejection_a_course_begins_anew(grown, workspace, tmp_path):
    """Nothing that was trained before counts: not the rounds, nor what came too late for them."""
    team = Together4(workspace, tmp_path, 1)
    ann, ben = team.join("ann"), team.join("ben")
    _, before, point = ben._sync()
    ben._train(team.town.maintainer.look(), before, point)
    while not team.at().is_over:
        ann.go_on()
        team.town.clock.now += SECONDS
        for each in (ann, ben):
            each.keeper.holding.beat()
    first = team.at()
    assert first.course == 1 and {len(end.counted) for end in first.ends} == {1}

    work = submit(ann.member, ann.claim)
    facts = {"domain": DOMAIN, "number": work.number, "holder": work.key, "sha256": ""}
    no = Verdict(
        commons=team.town.maintainer.commons, admitted=False, reason="harm", text="", **facts
    )
    assert team.town.maintainer.write(layout.verdict(DOMAIN, work.number, work.key), no)
    at = team.at()
    assert (at.course, at.ends, at.point()) == (2, [], team.base.sha256)
    assert not rounds.waiting(team.town.maintainer.look(), at)

    # Ben keeps his seat; Ann takes the first one again. Both begin with the branch.
    team.town.clock.now += 2 * SLACK
    assert seats.take(ann.member, DOMAIN, SPEEDS["ann"]).domain == DOMAIN
    ann = team.volunteer(ann.member, "ann")
    ben._hand_in(before)  # of the course that is over
    assert not rounds.waiting(team.town.maintainer.look(), team.at())
    while not team.at().is_over:
        for each in (ann, ben):
            each.keeper.holding.beat()
            each.go_on()
    again = team.at()
    assert again.course == 2 and again.ends[0].before == team.base.sha256
    assert len(again.ends[0].counted) == 2
    assert again.point() != first.point()
    (last,) = {each.run()[2].sha256 for each in (ann, ben)}
    assert last == again.point()
