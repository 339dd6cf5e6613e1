"""The jobs of a cycle, and the jobs that each waits for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from btm.config.schema import Config
from btm.steps.baselines import trained_together

Verb = Literal["seed", "train", "score", "finish"]


@dataclass(frozen=True)
class Job:
    """One job: a step of the cycle on one ELM. Its name is its identity in every record."""

    name: str
    verb: Verb
    elm: str = ""
    needs: tuple[str, ...] = ()  # jobs that must be done before; siblings share one tuple
    among: tuple[str, ...] = ()  # train: the ELMs it may branch from
    round: int = 0
    together: tuple[str, ...] = ()  # train: domains whose ELMs this one job makes, beside its own

    @property
    def batches(self) -> int:
        """How many batches a step of its training takes: one, or one for each domain."""
        return len(self.together) or 1

    @property
    def makes(self) -> tuple[str, ...]:
        """The names of the ELMs that it publishes."""
        return (*self.together, self.elm) if self.verb in ("seed", "train") else ()


def jobs_of(config: Config, rounds: Sequence[Sequence[str]]) -> list[Job]:
    """List the jobs of a cycle with the settings `config` and these rounds."""
    if (name := trained_together(config)) is not None:
        everything = [domain for domains in rounds for domain in domains]
        return together(config.seed.name, name, everything)
    return cycle(config.seed.name, rounds)


def together(seed: str, name: str, domains: Sequence[str]) -> list[Job]:
    """List the jobs of a cycle in which one job trains the ELMs of all domains, and one `name`."""
    train = Job(f"train-{name}", "train", name, ("seed",), (seed,), 1, tuple(domains))
    scores = [Job(f"score-{seed}", "score", seed, ("seed",))]
    scores += [Job(f"score-{elm}", "score", elm, (train.name,)) for elm in [*domains, name]]
    finish = Job("finish", "finish", "", tuple(job.name for job in scores))
    return [Job("seed", "seed", seed), train, *scores, finish]


def cycle(seed: str, rounds: Sequence[Sequence[str]], *, score_seed: bool = True) -> list[Job]:
    """List the jobs of a cycle, each after those it needs.

    An expert needs the seed, or every expert of the rounds before its own; so siblings never wait
    for one another. Each ELM is scored as soon as it stands.
    """
    jobs = [Job("seed", "seed", seed)]
    needs: tuple[str, ...] = ("seed",)
    among: tuple[str, ...] = (seed,)
    earlier: list[str] = []
    for number, domains in enumerate(rounds, 1):
        jobs += [
            Job(f"train-{domain}", "train", domain, needs, among, number) for domain in domains
        ]
        earlier += domains
        among, needs = tuple(earlier), tuple(f"train-{domain}" for domain in earlier)
    scored = [seed, *earlier] if score_seed else earlier
    scores = [
        Job(f"score-{elm}", "score", elm, ("seed" if elm == seed else f"train-{elm}",))
        for elm in scored
    ]
    return [*jobs, *scores, Job("finish", "finish", "", tuple(job.name for job in scores))]


class Waiting:
    """The jobs that wait: for each distinct set of needs, those that are not done yet."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        # By set of needs, not by job: thousands of siblings share one tuple, which is hashed once.
        self._open: dict[tuple[str, ...], set[str]] = {}
        self._jobs: dict[tuple[str, ...], list[Job]] = {}
        self._groups_of: dict[str, list[tuple[str, ...]]] = {}
        by_id: dict[int, tuple[str, ...]] = {}
        for job in jobs:
            needs = by_id.setdefault(id(job.needs), job.needs)
            if needs not in self._jobs:
                self._jobs[needs], self._open[needs] = [], set(needs)
                for name in needs:
                    self._groups_of.setdefault(name, []).append(needs)
            self._jobs[needs].append(job)

    def start(self) -> list[Job]:
        """List the jobs that need nothing."""
        return list(self._jobs.get((), []))

    def done(self, name: str) -> list[Job]:
        """Mark a job as done; return the jobs that may start now."""
        ready = []
        for needs in self._groups_of.get(name, []):
            if name in self._open[needs]:
                self._open[needs].remove(name)
                if not self._open[needs]:
                    ready += self._jobs[needs]
        return ready

    def waits(self, job: Job) -> bool:
        """Tell whether a need of a job is still open."""
        return bool(self._open[job.needs])

    def behind(self, name: str) -> list[Job]:
        """List the jobs that need `name` directly."""
        return [job for needs in self._groups_of.get(name, []) for job in self._jobs[needs]]
