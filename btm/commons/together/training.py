"""The work of one volunteer of several: rounds of the ordinary training from common points.

    look, compute the points of rounds that have ended
    train on own text from the newest point, for a share of the round's tokens by measured speed
    hand in the difference in 8 bits, with what rounding took from the one before
    close the round, once all who live have handed in or its time is over, or wait

All that a kill may interrupt is published whole, so the same command goes on.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from btm.commons.bodies import Contribution, Counted, Round
from btm.commons.claims import LostClaimError, name_of
from btm.commons.keeping import Keeper, Kept
from btm.commons.layout import Work, domain_of, number_of
from btm.commons.layout import rounds as folder_of
from btm.commons.signed import RefusedError
from btm.commons.snapshot import Snapshot
from btm.commons.together import points, rounds
from btm.commons.together.plan import Plan
from btm.commons.together.points import Moved, Point, Points, UnfitError
from btm.commons.together.rounds import Progress
from btm.config.schema import Config
from btm.config.training import TrainerConfig
from btm.data.batches import Batches, windows
from btm.data.shards import Suite
from btm.errors import UserError
from btm.interop import delta8
from btm.interop.remote.manifest import Content
from btm.interop.remote.places import UnreachableError
from btm.models import causal_lm, outer, weights
from btm.models.outer import Outer
from btm.report import Reporter
from btm.system import durable, sums
from btm.system.json_files import read_object
from btm.train import checkpoint, loop
from btm.train.schedule import Schedule, default_lr
from btm.train.training import Trained, Training

_DIFFERENCE, _RESIDUAL, _SENT = "difference.safetensors", "residual.safetensors", "sent.json"
_TELLING = 3  # steps that a speed can be measured in
_POLLS = 50  # in the time of a round
_PATIENCE = 3600.0  # seconds that a store may be silent where training needs its answer
_PAUSE = (0.2, 30.0)  # seconds between two, at least and at most


def require_usable(config: Config) -> None:
    """Raise `UserError` for settings that rounds have no meaning for."""
    t = config.trainer
    if t.lr == "find" or t.carry == "continue" or t.average_last or t.average_decay:
        raise UserError(
            "an expert of several volunteers is trained in rounds: leave out trainer.lr=find, "
            "trainer.carry=continue, trainer.average_last and trainer.average_decay"
        )


@dataclass
class Volunteer:
    """Somebody's part in the expert of a domain: their text in `suite`, their files in `root`."""

    config: Config
    keeper: Keeper
    suite: Suite
    root: Path
    base: Point
    reporter: Reporter
    _wrong: set[tuple[int, int, int]] = field(default_factory=set)  # ends that give other weights

    def __post_init__(self) -> None:
        self.member, self.claim = self.keeper.holding.member, self.keeper.holding.claim
        self.domain = domain_of(self.claim.domain)
        self.work = Work(self.claim.holder, self.claim.domain, self.claim.number)
        self.points = Points(self.root / "points", self.base)
        self.reporter = Kept(self.reporter, self.keeper)

    def run(self) -> tuple[Progress, Snapshot, Point]:
        """Take part until all tokens are trained on; return the rounds and the last point.

        Raises `LostClaimError` once the seat is another's.
        """
        silent_since: float | None = None
        while True:
            try:
                found = self.go_on()
                silent_since = None
            except UnreachableError as error:
                # What was made stands, so all of it can be tried again.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > _PATIENCE:
                    raise
                self.reporter.line(f"{error}; asking again")
                found = _PAUSE[1] / 3
            if not isinstance(found, float):
                return found
            self._wait(found)

    def go_on(self) -> tuple[Progress, Snapshot, Point] | float:
        """Do what is to be done now; return the seconds to wait before the next, or how it ended
        once all tokens are trained on.
        """
        snapshot, at, point = self._sync()
        if at.is_over:
            return at, snapshot, point
        if not rounds.handed_in(snapshot, self.claim, at):
            self._train(snapshot, at, point)
            self._hand_in(at)
        elif not self._close(snapshot, at, point):
            return min(max(at.together.seconds / _POLLS, _PAUSE[0]), _PAUSE[1])
        return 0.0

    # The points of rounds that have ended.

    def _sync(self) -> tuple[Snapshot, Progress, Point]:
        """Look at the store, and compute the points that are not here yet."""
        while True:
            snapshot = self.member.look()
            at = rounds.progress(snapshot, self.domain, frozenset(self._wrong))
            known = rounds.contributions(snapshot, self.domain)
            first = next(n for n in range(at.number, 0, -1) if self.points.get(at.point(n)))
            for number in range(first, at.number):
                if not self._follow(at, number, known):
                    break
            else:
                point = self.points.get(at.point())
                assert point is not None
                self.points.keep({at.point(n) for n in (at.number, at.number - 1) if n})
                return snapshot, at, point

    def _follow(self, at: Progress, number: int, known: dict[str, Contribution]) -> bool:
        """Compute the point after a round; return False if its end says another."""
        end, point = at.ends[number - 1], self.points.get(at.point(number))
        assert point is not None
        try:
            made = self._after(at, point, {name: known[name] for name in end.counted}, strict=True)
            fits = points.is_of(made, end)
        except UnfitError:
            fits = False
        if not fits:
            self.reporter.line(f"round {number}: its end by {end.closer[:8]} is wrong, and ignored")
            self._wrong.add((end.course, number, end.attempt))
        self.points.keep({at.point(n) for n in range(max(1, number - 1), at.number + 1)})
        return fits

    def _after(
        self, at: Progress, point: Point, counted: dict[str, Contribution], *, strict: bool
    ) -> Point:
        """Compute the point after a round that counts these; those that are damaged are left out
        of `counted`, unless it must be all of them.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = durable.scratch_folder(self.root)
        files: dict[str, Path] = {}
        try:
            for number, name in enumerate(sorted(counted)):
                file = scratch / f"{number}.safetensors"
                try:
                    points.fetch(self.member.place, counted[name], point.folder, file)
                except RefusedError as error:
                    if strict:
                        raise
                    self.reporter.line(f"not counted: {error}")
                    continue
                files[name] = file
            for name in counted.keys() - files.keys():
                del counted[name]
            if not counted:
                raise RefusedError("damaged", f"round {at.number}: nothing that can be counted")
            shares = outer.shares([counted[name].tokens for name in files])
            moved = [
                Moved(file, counted[name].block, share)
                for (name, file), share in zip(files.items(), shares, strict=True)
            ]
            step = Outer(at.together.lr, at.together.momentum)
            return self.points.after(point, moved, step, self.reporter.alive)
        finally:
            durable.remove_folder(scratch)

    # A round of training.

    def _train(self, snapshot: Snapshot, at: Progress, point: Point) -> None:
        """Train for our share of the round, and keep what is to be handed in."""
        name = _name(at)
        if (self._sent / name).is_dir():
            return
        folder, trainer = self._begun(snapshot, at, point, name), self._trainer(point)
        plan = Plan.read_from(folder)
        before = self._newest_sent()
        moments = before / checkpoint.MOMENTS if before else None
        pieces = list(self.suite.shard(self.domain, "train").pieces(trainer.seq_len + 1))
        pulse = _Timed(self.reporter.pulse)
        valid = self.suite.shard(self.domain, "valid")
        with self.reporter.training(f"{self.domain}, round {at.number}") as report:
            trained = loop.train(
                Training(
                    folder,
                    Batches(
                        pieces,
                        trainer.seq_len,
                        plan.batch,
                        trainer.seed,
                        order=self.claim.domain,
                        first=plan.first,
                    ),
                    trainer,
                    Schedule.of(trainer, horizon=plan.horizon, offset=plan.offset),
                    plan.steps,
                    valid=windows(valid, trainer.seq_len, trainer.valid_tokens),
                    moments=moments if moments and moments.is_file() else None,
                    keep_moments=True,
                    report=report,
                    pulse=pulse,
                )
            )
        speed = pulse.steps_per_second * plan.batch * trainer.seq_len
        self._pack(name, folder, point, trained, speed or self.claim.speed, plan)
        durable.remove_folder(folder)

    def _trainer(self, point: Point) -> TrainerConfig:
        """Return the settings of training with a rate that is a number."""
        if self.config.trainer.lr is not None:
            return self.config.trainer
        return replace(self.config.trainer, lr=default_lr(weights.parameters(point.folder)))

    def _begun(self, snapshot: Snapshot, at: Progress, point: Point, name: str) -> Path:
        """Return the folder that a round is trained in: a copy of its point, and the plan."""
        folder = self.root / "rounds" / name
        if folder.is_dir() and Plan.read_from(folder).base == point.sha256:
            return folder
        before = self._newest_sent()
        read = read_object(before / _SENT, read=int)["read"] if before else 0
        plan = Plan.make(at, point.sha256, self._trainer(point), self._share(snapshot, at), read)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in folder.parent.glob("[!.]*"):  # of rounds that are over: it came too late
            durable.remove_folder(old)
        with durable.publish_folder(folder) as made:
            for file in weights.files(point.folder):
                (made / file.name).write_bytes(file.read_bytes())
            for index in point.folder.glob("*.index.json"):
                (made / index.name).write_bytes(index.read_bytes())
            causal_lm.copy_files(point.folder, made)
            plan.write(made)
        said = f"{plan.steps} steps of {plan.batch * self.config.trainer.seq_len:,} tokens"
        self.reporter.line(f"round {at.number}: {said}, from {at.tokens:,} tokens on")
        return folder

    def _share(self, snapshot: Snapshot, at: Progress) -> float:
        """Return our share of the round's tokens, by the speeds of those who live."""
        speeds = rounds.speeds(snapshot, at, self.member.now())
        mine = speeds.setdefault(self.claim.domain, max(1e-3, self.claim.speed))
        return mine / sum(speeds.values())

    # What is handed in.

    @property
    def _sent(self) -> Path:
        return self.root / "sent"

    def _newest_sent(self) -> Path | None:
        """Return the folder of what was made last."""
        found = self._sent.glob("[!.]*") if self._sent.is_dir() else []
        return max(found, key=lambda folder: [int(n) for n in folder.name.split("-")], default=None)

    def _pack(
        self, name: str, folder: Path, point: Point, trained: Trained, speed: float, plan: Plan
    ) -> None:
        """Keep a difference to hand in, its residual, and the moments to go on with."""
        before = self._newest_sent()
        residual = before / _RESIDUAL if before else None
        self._sent.mkdir(exist_ok=True)
        with durable.publish_folder(self._sent / name) as made:
            feedback = residual, made / _RESIDUAL
            block = self.config.export.block
            file = made / _DIFFERENCE
            delta8.write(folder, point.folder, file, block, self.reporter.alive, feedback)
            if (folder / checkpoint.MOMENTS).is_file():
                os.link(folder / checkpoint.MOMENTS, made / checkpoint.MOMENTS)
            facts = {"base": point.sha256, "tokens": trained.tokens, "speed": round(speed, 1)}
            facts |= {"block": block, "read": plan.read_after}
            facts |= {"flops": trained.flops / trained.tokens, "precision": trained.precision}
            durable.write_json(made / _SENT, facts)

    def _hand_in(self, begun: Progress) -> None:
        """Upload what was made for a round, unless it comes too late to be counted."""
        folder = self._sent / _name(begun)
        _, at, _ = self._sync()
        if at.course == begun.course and at.takes(begun.number) and not at.is_over:
            self._upload(begun, folder)
        else:
            self.reporter.line(f"round {begun.number}: came too late, and counts for nothing")
        for old in self._sent.glob("[!.]*"):
            if old != folder:
                durable.remove_folder(old)

    def _upload(self, at: Progress, folder: Path) -> None:
        file = folder / _DIFFERENCE
        facts = read_object(folder / _SENT, base=str, tokens=int, speed=float, block=int)
        content = Content(sums.file_sha256(file), file.stat().st_size)
        if content.size > (most := self.member.charter.policy.most_bytes):
            raise UserError(f"{file}: {content.size:,} bytes; the commons takes {most:,} at most")
        self.keeper.require_held()
        name = self.work.moved(at.course, content.sha256)
        self.member.place.send(file, name, content, lambda more: None)
        body = Contribution(
            commons=self.member.commons,
            domain=self.claim.domain,
            number=self.claim.number,
            holder=self.claim.holder,
            course=at.course,
            round=at.number,
            tokens=facts["tokens"],
            speed=facts["speed"],
            base=facts["base"],
            sha256=content.sha256,
            size=content.size,
            block=facts["block"],
        )
        self.member.write(self.work.contribution(at.course, at.number), body)
        self.reporter.line(f"round {at.number}: handed in {facts['tokens']:,} tokens")

    # The end of a round.

    def _close(self, snapshot: Snapshot, at: Progress, point: Point) -> bool:
        """Close the round if it is due; return whether it is closed, by us or by another."""
        if not rounds.is_due(snapshot, at, self.member.now()):
            return False
        counted = rounds.waiting(snapshot, at)
        try:
            made = self._after(at, point, counted, strict=False)
        except RefusedError as error:
            self.reporter.line(str(error))
            return False
        folder = folder_of(self.domain, at.course, at.number)
        names = self.member.place.stats(folder)
        tried = {n for name in names if (n := number_of(name))}
        # An attempt that stands and was not seen in this snapshot is perhaps as it should be.
        seen = {e.attempt for e, _ in snapshot.rounds.get(self.domain, []) if _of(e, at)}
        if tried - seen:
            return True
        attempt = max(tried, default=0) + 1
        body = Round(
            commons=self.member.commons,
            domain=self.domain,
            course=at.course,
            round=at.number,
            attempt=attempt,
            closer=self.claim.holder,
            before=point.sha256,
            counted={n: Counted(each.sha256, each.tokens) for n, each in counted.items()},
            sha256=made.sha256,
            momentum=points.momentum_sha256(made),
        )
        if self.member.write(f"{folder}/{attempt}.json", body):
            total = sum(each.tokens for each in counted.values())
            self.reporter.line(f"round {at.number}: closed with {len(counted)}, {total:,} tokens")
        return True

    def _wait(self, pause: float) -> None:
        """Wait for the others; `LostClaimError` once the seat is another's."""
        end = time.monotonic() + pause
        while time.monotonic() < end:
            if self.reporter.pulse(0):
                raise self.keeper.lost or LostClaimError(f"{self.domain!r}: stopped")
            time.sleep(min(0.2, pause))

    def trained(self, at: Progress, snapshot: Snapshot) -> Trained:
        """Return the result of all rounds, for the card: it names who contributed how much."""
        sent = self._newest_sent()
        facts = read_object(sent / _SENT) if sent else {}
        parts = rounds.tokens_by_key(at)
        said = ", ".join(f"{name_of(snapshot, key)} {count:,}" for key, count in parts.items())
        a_step = self.config.trainer.batch_size * self.config.trainer.seq_len
        return Trained(
            steps=round(at.tokens / a_step),
            tokens=at.tokens,
            flops=float(facts.get("flops", 0.0)) * at.tokens,
            exact=False,
            notes=[
                f"trained by {len(parts)} volunteers in {len(at.ends)} rounds (tokens: {said})",
                f"outer step: η {at.together.lr:g}, Nesterov momentum {at.together.momentum:g}",
            ],
            precision=facts.get("precision"),
            lr=rate if isinstance(rate := self._trainer(self.base).lr, float) else None,
        )


def _name(at: Progress) -> str:
    return f"{at.course}-{at.number}"


def _of(end: Round, at: Progress) -> bool:
    return (end.course, end.round) == (at.course, at.number)


class _Timed:
    """Passes on the signs of life of a training, and measures its speed."""

    def __init__(self, pulse: Callable[[int], bool]) -> None:
        self._pulse = pulse
        self._times: list[tuple[int, float]] = []

    def __call__(self, step: int) -> bool:
        self._times.append((step, time.monotonic()))
        return self._pulse(step)

    @property
    def steps_per_second(self) -> float:
        """Steps per second; 0 if there were too few to tell."""
        if len(self._times) < _TELLING:
            return 0.0
        (first, begun), (last, ended) = self._times[0], self._times[-1]
        return (last - first) / (ended - begun)
