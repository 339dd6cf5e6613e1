"""Every file name of a forest: `Paths` of its root, `ModelFolder` of a model in it; those of its
cycles are in job_paths.py.

    forest.json                   what all its ELMs share (forest.py)
    tokenizer/                    the tokenizer of all its ELMs
    settings.json                 what it was grown with (settings.py)
    suites/<name>.json            where its text is prepared (settings.py)
    elms/<name>/                  an ELM, sealed
    averages/<name>/              an average of ELMs, sealed
    students/<name>/              a model that was distilled from ELMs, sealed
    moes/<name>/                  a mixture of experts (MoE) made of ELMs, sealed
    moes/.<name>/                 one whose router is trained: making.json says of what
    readers/<name>/               a trained reader of questions, sealed (readers.py)
    readers/.<name>/              one that is trained: making.json says with what, checkpoints
    branches/<name>/              an ELM in the making; who holds it renames it (system/lease.py)
    pulls/<id>/                   what a pull that was stopped has fetched (interop/remote)
    branches/<name>+student/      a student in the making (students.py)
    removed/<name>/               a tombstone: card.json, and plan.json and deleting/ (removal.py)
    scores/<shard>/<sha256>.npy   log-probabilities by weights; <sha256>-int8.npy (config/load.py)
    fisher/<sha256>-<shard>…/     Fisher information by weights
    targets/<shard>/<identity>/   what an ensemble predicts, for students (ensemble/targets.py)
    trained-on/<sha256>.docs      digests of the documents of a train shard (trained_on.py)
    evals/<name>.json             evaluations, with pictures
    evals/tasks-<suite>/          benchmark tasks of the test text (steps/bench/text_tasks.py)
    jobs/                         the records of cycles (launch/records.py)

The names of what belongs to a Hugging Face model are in models/files.py, of SHA256SUMS in
system/sums.py, and what is in a checkpoint is train/checkpoint.py's own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from btm.config.checks import is_name
from btm.forest.job_paths import JobPaths
from btm.models import files
from btm.system import lease

if TYPE_CHECKING:
    from btm.data.shards import Shard

FACTS = "forest.json"
TOKENIZER = "tokenizer"
SETTINGS = "settings.json"
ELMS = "elms"
AVERAGES = "averages"
STUDENTS = "students"
MOES = "moes"
READERS = "readers"
# The folders of models that are made of ELMs. Nothing is branched from such a model, it is no
# member of the ensemble, and the folder makes a name explicit: averages/NAME.
DERIVED = (AVERAGES, STUDENTS, MOES)
CARD = "card.json"
BIN = "deleting"
PLAN = "plan.json"
_BRANCHES = "branches"
_REMOVED = "removed"
_PULLS = "pulls"
SCORES = "scores"
_FISHER = "fisher"
_TARGETS = "targets"
ENSEMBLE = "ensemble.json"  # of targets: what they depend on
_STUDENT = "+student"  # cannot stand in the name of an ELM, so the branch of none is meant
TRAINED_ON = "trained-on"
_READMITTED = lease.MARK  # like a lease's, for it cannot stand in the name of an ELM
_CHECKPOINT = "checkpoint-"
_SHA256_DIGITS = 32  # of the weights, in the name of a folder of Fisher information
_SHARD_DIGITS = 16


@dataclass(frozen=True)
class ModelFolder:
    """The folder of an ELM, of a model derived from ELMs, or of a branch."""

    path: Path

    @property
    def card(self) -> Path:
        """Its provenance (card.py); every model but a branch is sealed with it."""
        return self.path / CARD

    @property
    def readme(self) -> Path:
        """The model card, for people (model_card.py)."""
        return self.path / files.README

    @property
    def config(self) -> Path:
        """The config.json of transformers."""
        return self.path / files.CONFIG

    @property
    def origin(self) -> Path:
        """Of a branch: its domains and parents, written when it begins."""
        return self.path / "branch.json"

    @property
    def result(self) -> Path:
        """Of a branch: what its training came to, written when that is complete."""
        return self.path / "trained.json"

    @property
    def making(self) -> Path:
        """Of a mixture of experts in the making: its recipe and its parents."""
        return self.path / "making.json"

    @property
    def rates(self) -> Path:
        """Of a branch: the learning rates that were tested (steps/rates.py)."""
        return self.path / "rates.json"

    @property
    def metrics(self) -> Path:
        """The course of its training, a line of JSON a report."""
        return self.path / "metrics.jsonl"

    def checkpoint(self, step: int) -> Path:
        """Name the checkpoint of a training `step`."""
        return self.path / f"{_CHECKPOINT}{step:08d}"

    def checkpoints(self) -> list[Path]:
        """List its checkpoints, oldest first."""
        return sorted(self.path.glob(f"{_CHECKPOINT}*"))

    def weights(self) -> list[Path]:
        """List its files of weights; empty where there is no such folder."""
        return sorted(self.path.glob(files.EVERY_WEIGHTS))


@dataclass(frozen=True)
class ReaderFolder:
    """The folder of a trained reader, or of one in the making."""

    path: Path

    @property
    def card(self) -> Path:
        """The card: the models it stands on, and its numbers (readers.py)."""
        return self.path / CARD

    @property
    def modules(self) -> Path:
        """Its modules by name, with their options."""
        return self.path / "modules.json"

    @property
    def learnt(self) -> Path:
        """The state of its input module, such as names of entities."""
        return self.path / "learnt.json"

    @property
    def weights(self) -> Path:
        """The parameters and buffers of its model module."""
        return self.path / files.WEIGHTS

    @property
    def making(self) -> Path:
        """Of one in the making: what its training depends on."""
        return ModelFolder(self.path).making


def in_making(student: str) -> str:
    """Name the branch in which the student `student` is made."""
    return student + _STUDENT


def is_branch(name: str) -> bool:
    """Tell whether a branch may have this name: that of an ELM, or of a student in the making."""
    return is_name(name.removesuffix(_STUDENT))


def places_of(name: str) -> tuple[tuple[str, ...], str]:
    """Split what a user calls a model into the folders it may stand in, the likeliest first, and
    its bare name.

    ``averages/NAME`` is an average; a NAME alone is an ELM, or else a derived model.
    """
    place, slash, bare = name.partition("/")
    return ((place,), bare) if slash and place in DERIVED else ((ELMS, *DERIVED), name)


def step_of(checkpoint: Path) -> int:
    """Read the training step from the name of a checkpoint."""
    return int(checkpoint.name.removeprefix(_CHECKPOINT))


@dataclass(frozen=True)
class Paths:
    """The files and folders of the forest at `root`, whether they are there or not."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        """Place the forest at `root`."""
        object.__setattr__(self, "root", Path(root))

    @property
    def facts(self) -> Path:
        """What all its ELMs share; a forest stands once this file does."""
        return self.root / FACTS

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that all its ELMs share."""
        return self.root / TOKENIZER

    @property
    def settings(self) -> Path:
        """What the command that grew its first expert was told."""
        return self.root / SETTINGS

    def suite(self, name: str) -> Path:
        """Name the file that records the suite `name`."""
        return self.root / "suites" / f"{name}.json"

    def suites(self) -> list[Path]:
        """List the files that record suites, by name."""
        return sorted(self.suite("any").parent.glob("*.json"))

    @property
    def elms(self) -> Path:
        """The folder of its ELMs."""
        return self.root / ELMS

    def elm(self, name: str) -> ModelFolder:
        """Name the folder of the ELM `name`."""
        return ModelFolder(self.elms / name)

    @property
    def averages(self) -> Path:
        """The folder of its averages."""
        return self.root / AVERAGES

    def average(self, name: str) -> ModelFolder:
        """Name the folder of the average `name`."""
        return ModelFolder(self.averages / name)

    def derived(self, place: str, name: str) -> ModelFolder:
        """Name the folder of a model in one of the `DERIVED` places."""
        return ModelFolder(self.root / place / name)

    def moe_in_making(self, name: str) -> Path:
        """Name the folder at rest in which the router of the mixture `name` is trained."""
        return self.root / MOES / f".{name}"

    def in_making(self, place: str) -> list[Path]:
        """List the folders at rest of what is trained in `place`: of `MOES` or of `READERS`."""
        found = (self.root / place).glob(".*/making.json")
        return sorted({file.parent.with_name(lease.name_of(file.parent)) for file in found})

    def reader(self, name: str) -> ReaderFolder:
        """Name the folder of the trained reader `name`."""
        return ReaderFolder(self.root / READERS / name)

    def reader_in_making(self, name: str) -> Path:
        """Name the folder at rest in which the reader `name` is trained."""
        return self.root / READERS / f".{name}"

    def readers(self) -> list[ReaderFolder]:
        """List the folders of its trained readers, by name."""
        found = (self.root / READERS).glob(f"*/{CARD}")
        return [ReaderFolder(f.parent) for f in sorted(found) if is_name(f.parent.name)]

    @property
    def branches(self) -> Path:
        """The folder of its branches."""
        return self.root / _BRANCHES

    def branch(self, name: str) -> Path:
        """Name the folder of the branch `name` at rest; `lease.find` tells where it is now."""
        return self.branches / name

    @property
    def removed(self) -> Path:
        """The folder of its tombstones."""
        return self.root / _REMOVED

    @property
    def pulls(self) -> Path:
        """The folder of what pulls have fetched and not yet let in."""
        return self.root / _PULLS

    def tombstone(self, name: str) -> Path:
        """Name the folder of the tombstone of the ELM `name`."""
        return self.removed / name

    def readmitted(self, name: str, when: str, sha256: str) -> Path:
        """Name the folder that a tombstone moves to when its name may be used again."""
        return self.removed / f"{name}{_READMITTED}{when}-{sha256[:12]}"

    def bin(self, name: str) -> Path:
        """Name the folder in which what goes with the ELM `name` is deleted."""
        return self.tombstone(name) / BIN

    def bins(self) -> list[Path]:
        """List the bins of removals that were not finished."""
        return [path for path in self.removed.glob(f"*/{BIN}") if path.is_dir()]

    def plan(self, name: str) -> Path:
        """Name the file that says what is made again after the removal of `name`."""
        return self.tombstone(name) / PLAN

    @property
    def scores(self) -> Path:
        """The folder of its score cache (ensemble/score.py)."""
        return self.root / SCORES

    def scores_of(self, sha256: str = "*") -> Iterator[Path]:
        """Find the score files of the weights `sha256`, or of all weights, however loaded."""
        for file in self.scores.glob("*/*.npy"):
            if sha256 in ("*", weights_of(file)):
                yield file

    @property
    def unwritten(self) -> Path:
        """The folder of the sha256 of averages that were measured and not kept (unwritten.py)."""
        return self.scores / AVERAGES

    def fisher(self, sha256: str, shard: "Shard", window: int, sequences: int) -> Path:
        """Name the folder of the Fisher information of the weights `sha256` on `sequences` windows
        of `window` tokens of a shard.
        """
        of = f"{sha256[:_SHA256_DIGITS]}-{shard.sha256[:_SHARD_DIGITS]}"
        return self.root / _FISHER / f"{of}-w{window}-n{sequences}"

    def fishers_of(self, sha256: str = "") -> list[Path]:
        """List the folders of Fisher information of the weights `sha256`, or of all weights."""
        pattern = f"{sha256[:_SHA256_DIGITS]}-*" if sha256 else "[!.]*"
        return sorted((self.root / _FISHER).glob(pattern))

    def targets(self, shard: "Shard", window: int) -> Path:
        """Name the folder of what ensembles predict on a train shard, in windows of `window`."""
        of = f"{shard.domain}-{shard.split}-{shard.sha256[:_SHARD_DIGITS]}"
        return self.root / _TARGETS / f"{of}-w{window}"

    def places(self) -> list[Path]:
        """List the folders in which something is published, where a killed process may have left
        a temporary: the forest, its folders, those in them, and one deeper for predictions.
        """
        found = [self.root, *self.root.glob("*"), *self.root.glob("*/[!.]*")]
        found += (self.root / _TARGETS).glob("*/[!.]*")
        return [path for path in found if path.is_dir()]

    def every_targets(self) -> list[Path]:
        """List the files that say of which ensembles predictions are kept."""
        return sorted((self.root / _TARGETS).glob(f"*/*/{ENSEMBLE}"))

    @property
    def digests(self) -> Path:
        """The folder of the digests of documents that its ELMs were trained on."""
        return self.root / TRAINED_ON

    def trained_on(self, sha256: str) -> Path:
        """Name the file of the digests of the documents in a train shard."""
        return self.digests / digests_name(sha256)

    def trained_ons(self) -> list[Path]:
        """List the files of digests, of all train shards."""
        return sorted(self.digests.glob(digests_name("[!.]*")))

    @property
    def evals(self) -> Path:
        """The folder of its evaluations."""
        return self.root / "evals"

    def evaluation(self, name: str | None) -> Path:
        """Name the file of the evaluation `name`; None is the forest's own name."""
        return self.evals / f"{name or self.root.name}.json"

    def mixtures(self, name: str | None) -> Path:
        """Name the file of the ranking `name` of mixtures; None as in `evaluation`."""
        file = self.evaluation(name)
        return file.with_name(f"{file.stem}-mix.json")

    def comparison(self, name: str | None) -> Path:
        """Name the file of the comparison `name` with other forests; None as in `evaluation`."""
        return self.evals / f"{name or self.root.name}-compare.json"

    def benchmarks(self, name: str | None) -> Path:
        """Name the file of the benchmarks `name`; None as in `evaluation`."""
        return self.evals / f"{name or self.root.name}-bench.json"

    def report(self, name: str | None) -> Path:
        """Name the file of the report on the evaluation `name`; None as in `evaluation`."""
        return self.evals / f"{name or self.root.name}-report.html"

    def reading(self, reader: str, split: str) -> Path:
        """Name the file of what a reader came to on a split of its questions."""
        return self.evals / f"reader-{reader}-{split}.json"

    def own_tasks(self, suite: str) -> Path:
        """Name the folder of the benchmark tasks that are made of the test text of a suite."""
        return self.evals / f"tasks-{suite}"

    def growth(self, domain: str) -> Path:
        """Name the file that says what an added `domain` changed."""
        return self.evals / f"grow-{domain}.json"

    @property
    def jobs(self) -> JobPaths:
        """The records of its cycles."""
        return JobPaths(self.root / "jobs")


def scores_name(sha256: str, loaded: str = "") -> str:
    """Name a file of the scores of the weights `sha256`, `loaded` as LoadConfig.word says."""
    return f"{sha256}-{loaded}.npy" if loaded else f"{sha256}.npy"


def weights_of(scores: Path) -> str:
    """Read the sha256 of the weights from the name of a file of scores."""
    return scores.stem.partition("-")[0]


def digests_name(sha256: str) -> str:
    """Name a file of the digests of the documents in a train shard."""
    return f"{sha256}.docs"


def digits_of(fisher: Path) -> str:
    """Read the first digits of the weights' sha256 from the name of a folder of Fisher
    information.
    """
    return fisher.name.partition("-")[0]


def name_of_removed(tombstone: Path) -> str:
    """Read the name of the ELM from the folder of its tombstone, readmitted or not."""
    return tombstone.name.partition(_READMITTED)[0]
