"""The teachers of a student: which ensemble they are, and what it predicts on what a student reads.

Their predictions are computed once for each ensemble and window and kept in the forest
(btm/ensemble/targets.py). The windows are those that every student with this trainer.seed and
trainer.seq_len reads, so a second student of other settings finds them there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from btm.config.distil import TEACHERS
from btm.config.ensemble import EnsembleConfig
from btm.config.schema import Config
from btm.data.batches import ORDER, Batches
from btm.data.shards import Shard, Suite
from btm.ensemble import targets
from btm.ensemble.targets import CHUNK, Store, Targets, Weigh
from btm.errors import UserError
from btm.forest import ELM, Forest, Model
from btm.models import causal_lm
from btm.models.causality import require_causal
from btm.report import Reporter
from btm.steps import score_cache
from btm.steps.domain_weights import fit_for
from btm.system.json_files import Json

READING = "distil"  # names the order of the windows, whatever the student is called


def batches(config: Config, shards: list[Shard]) -> Batches:
    """Make the batches of a student; `UserError` if a shard is too short."""
    trainer = config.trainer
    pieces = [piece for shard in shards for piece in shard.pieces(trainer.seq_len + 1)]
    return Batches(pieces, trainer.seq_len, trainer.batch_size, trainer.seed, order=READING)


def ensemble_of(config: Config) -> EnsembleConfig:
    """Return the ensemble of distil.teacher: of the cached prior, each window begun anew."""
    chosen = config.ensemble
    rule = TEACHERS[config.distil.teacher]
    theta = chosen.gate if rule == "gated" else None
    return EnsembleConfig(
        rule=rule, gate=theta, decay=chosen.decay, prior_sequences=chosen.prior_sequences
    )


def settings_of(config: Config) -> Json:
    """Return the settings that the predictions of the teachers depend on."""
    chosen = ensemble_of(config)
    made: Json = {"distil.teacher": config.distil.teacher, "ensemble.decay": chosen.decay}
    made |= fitting_of(config)
    return made if chosen.gate is None else made | {"ensemble.gate": chosen.gate}


def fitting_of(config: Config) -> Json:
    """Return the settings that say which part of the valid text something is fitted on, and how it
    is read.
    """
    return {
        "ensemble.prior_sequences": config.ensemble.prior_sequences,
        "score.window": config.window,
        "score.max_tokens": config.score.max_tokens,
    }


@dataclass(frozen=True)
class Run:
    """A run of windows of one piece of a shard, whose predictions stand in one file."""

    index: int  # of the piece, in `Batches.shards`
    number: int  # of the run
    windows: int  # that a student reads of it


@dataclass(frozen=True)
class Teachers:
    """The ensemble that teaches, on the windows of the first `steps` steps of `batches`."""

    config: Config
    forest: Forest
    suite: Suite
    elms: list[ELM]  # by name
    batches: Batches
    steps: int

    @cached_property
    def stores(self) -> list[Store]:
        """The predictions of each piece of `batches`."""
        model = causal_lm.load_config(self.elms[0].path)
        vocabulary = causal_lm.text_config(model).vocab_size
        seen: dict[str, int] = {}
        found = []
        for shard in self.batches.shards:
            piece = seen[shard.domain] = seen.get(shard.domain, -1) + 1
            of = self.suite.shard(shard.domain, "train")
            home = self.forest.paths.targets(of, self.batches.seq_len)
            identity = self.identity(shard.domain)
            found.append(Store.of(home, identity, piece, self.batches.seq_len, vocabulary))
        return found

    def identity(self, domain: str) -> Json:
        """Collect all that the predictions on a domain depend on."""
        return {
            "elms": {elm.name: elm.card.sha256 for elm in self.elms},
            "text": self.suite.shard(domain, "train").sha256,
            "fitted on": self.suite.shard(domain, "valid").sha256,
            "settings": settings_of(self.config),
            "kept": targets.KEPT,
            "seed": self.batches.seed,
            "order": ORDER,
            "bos": self.suite.bos,
        }

    def missing(self) -> list[Run]:
        """List the runs of windows whose predictions nobody has computed yet."""
        return [
            run
            for run in self._runs()
            if self.stores[run.index].read(run.number, run.windows) is None
        ]

    def teach(self, reporter: Reporter) -> None:
        """Compute the predictions that are missing; a run that was killed goes on after the last
        file it wrote.
        """
        missing = self.missing()
        if not missing:
            return
        device = causal_lm.pick_device(self.config.trainer.device)
        weighers = self._weighers({self._domain(run) for run in missing}, reporter)
        import torch

        models = []
        for elm in self.elms:
            models.append(causal_lm.load_model(elm.path, device, dtype=torch.float32).eval())
            require_causal(models[-1], str(elm.path))
        total = sum(run.windows for run in missing) * self.batches.seq_len
        with reporter.scoring(f"{len(models)} teachers", total) as report:
            for run in missing:
                store, domain = self.stores[run.index], self._domain(run)
                first = run.number * CHUNK
                windows = range(first, first + run.windows)
                tokens = np.stack([self.batches.window(run.index, n) for n in windows])
                made = targets.targets(models, tokens, weighers[domain], store.dtype, self._given())
                store.write(run.number, made, self.identity(domain))
                report(made.size)

    def taught(self, step: int) -> Targets:
        """Read the predictions on the batch of a step, (B, L); `UserError` if they are gone."""
        return np.stack([self._of_window(*place) for place in self.batches.places(step)])

    def _of_window(self, index: int, n: int) -> Targets:
        number, row = divmod(n, CHUNK)
        found = self.stores[index].read(number, row + 1)
        if found is None:
            raise UserError(
                f"{self.stores[index].path(number)} vanished while it was needed; run the command "
                "again"
            )
        return found[row]

    def _runs(self) -> Iterator[Run]:
        for index, count in enumerate(self.batches.counts(self.steps)):
            for number in range(-(-count // CHUNK)):
                yield Run(index, number, min(CHUNK, count - number * CHUNK))

    def _domain(self, run: Run) -> str:
        return self.batches.shards[run.index].domain

    def _given(self) -> int | None:
        """Return the BOS, where it is a token of its own that nobody predicts."""
        return None if self.suite.bos == self.suite.eos else self.suite.bos

    def _weighers(self, domains: set[str], reporter: Reporter) -> dict[str, Weigh]:
        """Fit the ensemble on the valid split of each domain, as an evaluation does."""
        fitting = replace(score_cache.for_cards(self.config), ensemble=ensemble_of(self.config))
        members = [Model(e.name, e.path, e.card.sha256, "ELM", e.card) for e in self.elms]
        found = {}
        for domain in sorted(domains):
            prior, fitted = fit_for(fitting, self.forest, self.suite, domain, members, reporter)
            found[domain] = targets.weigher(fitted, [prior[elm.name] for elm in self.elms])
        return found
