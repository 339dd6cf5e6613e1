"""The registry on disk: a forest is a folder, and each folder in its ``elms/`` is an ELM.

Nothing in ``elms/`` is ever modified, and a folder arrives there whole by one rename. So any number
of processes may branch, train and merge at once, and be killed at any instruction.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from btm.config.checks import check_name, is_name
from btm.data import ends
from btm.data.tokenizer import other_beginning
from btm.errors import UserError, command, reword, unknown
from btm.forest import ledger, model_card, seal, tombstone
from btm.forest.branch import ELM, Branch
from btm.forest.card import Card
from btm.forest.paths import ModelFolder, Paths, is_branch
from btm.forest.terms import NONE_STATED, Terms, descended
from btm.models import average as averaging
from btm.models import causal_lm, configs, flops, tokenizer_files, weights
from btm.system import durable, lease, sums
from btm.system.json_files import Json, read_object

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SCHEMA = 1
EXACT = averaging.Settings(accumulate="float64")  # a branch of copies is the copy, bit for bit


@dataclass(frozen=True)
class Forest:
    """The ELMs under one root, and everything that is made of them."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        """Open the forest at `root`; `UserError` if there is none."""
        object.__setattr__(self, "root", Path(root))
        if not self.stands(root):
            raise UserError(f"no forest in {self.root}; plant one with: btm seed (or btm run)")
        if self.facts["schema"] > SCHEMA:
            raise UserError(f"{self.root}: written by a newer btm (schema {self.facts['schema']})")

    @staticmethod
    def stands(root: str | Path) -> bool:
        """Tell whether there is a forest at `root`."""
        return Paths(root).facts.is_file()

    @classmethod
    def create(
        cls, root: str | Path, config: "PretrainedConfig", tokenizer: Path, tokenizer_sha256: str
    ) -> "Forest":
        """Plant a forest for one architecture and one tokenizer (a folder and its fingerprint), or
        open it.

        Raises `UserError` if another architecture or tokenizer already grows there.
        """
        paths = Paths(root)
        fingerprint = configs.fingerprint(config)
        if not cls.stands(root):
            cls._plant_tokenizer(paths, tokenizer, tokenizer_sha256)
            facts = {
                "schema": SCHEMA,
                "architecture": fingerprint,
                "model_type": config.model_type,
                "tokenizer_sha256": tokenizer_sha256,
            }
            with suppress(FileExistsError):  # another process was faster: its forest is opened
                durable.write_json(paths.facts, sums.checked(facts), replace=False)
        forest = cls(root)
        forest.require(fingerprint, tokenizer_sha256, "what was asked for")
        return forest

    @staticmethod
    def _plant_tokenizer(paths: Paths, tokenizer: Path, sha256: str) -> None:
        """Publish the tokenizer of a forest to be; `UserError` if another one lies there."""
        from btm.data.tokenizer import tokenizer_sha256

        if not paths.tokenizer.exists():
            with suppress(FileExistsError), durable.publish_folder(paths.tokenizer) as folder:
                tokenizer_files.copy(tokenizer, folder)
                sums.write(folder)
        if tokenizer_sha256(paths.tokenizer) != sha256:
            raise UserError(
                f"{paths.tokenizer} is another tokenizer than what was asked for: another process "
                "plants a forest there now, or was killed while it did; give another forest=DIR, "
                f"or delete {paths.root} if no process is at work there"
            )

    @property
    def paths(self) -> Paths:
        """Its files and folders."""
        return Paths(self.root)

    @property
    def facts(self) -> Json:
        """Its forest.json: schema, architecture, model_type, tokenizer_sha256."""
        return read_object(self.paths.facts, schema=int)

    @property
    def identity(self) -> Json:
        """The architecture and tokenizer_sha256 that all its ELMs share."""
        return read_object(self.paths.facts, architecture=str, tokenizer_sha256=str)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that all its ELMs share; `UserError` if it is gone."""
        folder = self.paths.tokenizer
        if not folder.is_dir():
            raise UserError(
                f"{folder}: the tokenizer of the forest is gone: restore it from a copy; each ELM "
                f"holds the same files (cp {self.paths.elms}/NAME/*token* {folder}/)"
            )
        return folder

    def names(self) -> list[str]:
        """List the names of the ELMs, sorted; whatever else lies in ``elms/`` is ignored."""
        folder = self.paths.elms
        found = folder.iterdir() if folder.is_dir() else ()
        present = {p.name for p in found if is_name(p.name) and p.is_dir()}
        return sorted(present - tombstone.names(self.root))

    def elms(self) -> list[ELM]:
        """Return every ELM, by name."""
        return [self[name] for name in self.names() if name in self]

    def experts(self, names: list[str] | None = None) -> list[ELM]:
        """Return the ELMs called `names`; without names the experts, or every ELM if there is none.

        An expert is an ELM that was trained on one domain.
        """
        if names:
            return [self[name] for name in names]
        elms = self.elms()
        return [elm for elm in elms if elm.card.is_expert] or elms

    def __contains__(self, name: object) -> bool:
        if not (isinstance(name, str) and is_name(name)):
            return False
        stands = self.paths.elm(name).card.is_file()
        return stands and not tombstone.stands(self.root, name)

    def __getitem__(self, name: str) -> ELM:
        """Return one ELM; the `UserError` for a name that is not there lists those that are."""
        if name not in self:
            if is_name(name):
                tombstone.refuse(self.root, name)
                if self.paths.average(name).card.is_file():
                    raise UserError(
                        f"{name!r} is an average of {self.root}, and an ELM is wanted here; "
                        f"have: {', '.join(self.names()) or 'none'}"
                    )
            raise unknown("ELM", name, self.names(), str(self.root))
        folder = self.paths.elm(name)
        return ELM(folder.path, Card.read(folder.card))

    def branches(self) -> list[Branch]:
        """Return the ELMs in the making, by name."""
        folder = self.paths.branches
        found = (
            sorted(p for p in folder.iterdir() if not p.name.startswith("."))
            if folder.is_dir()
            else []
        )
        return [Branch(path) for path in found if ModelFolder(path).origin.is_file()]

    def has_branch(self, name: str) -> bool:
        """Tell whether an ELM called `name` is in the making."""
        return is_branch(name) and lease.find(self.paths.branch(name)) is not None

    def get_branch(self, name: str) -> Branch:
        """Return the branch `name`; the `UserError` for one that is not there lists those
        that are.
        """
        path = lease.find(self.paths.branch(name)) if is_branch(name) else None
        if path is None and name in self:
            raise UserError(
                f"{name!r} is an ELM of {self.root}, and ELMs never change: give another "
                "expert=NAME"
            )
        if path is None:
            raise unknown("branch", name, [b.name for b in self.branches()], str(self.root))
        return Branch(path)

    @contextmanager
    def hold(self, name: str) -> Iterator[tuple[Branch, lease.Lease]]:
        """Hold the lease on the branch `name`; `lease.HeldError` if another process has it."""
        self.get_branch(name)
        try:
            taken = lease.take(self.paths.branch(name))
        except FileNotFoundError:
            raise UserError(f"branch {name!r} was merged or deleted just now") from None
        try:
            durable.sweep(taken.path)
            yield Branch(taken.path), taken
        except Exception as error:
            # Its message is read when the folder has its own name again.
            reword(error, taken.path.name, taken.home.name)
            of_the_disk = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            if taken.path.is_dir() or of_the_disk or isinstance(error, UserError):
                raise
            raise lease.LostError(f"branch {name!r} was taken over by another process") from error
        finally:
            taken.release()

    def branch(
        self,
        name: str,
        domain: str,
        parents: Mapping[str, float],
        *,
        method: str = "weights",
        estimator: str = "given",
        settings: Json | None = None,
        alive: Callable[[], None] = lambda: None,
        finish: Callable[[Path], None] = lambda folder: None,
    ) -> Branch:
        """Initialise a new ELM as the weighted average of its `parents` {ELM: weight} (BTM, section
        2.3).

        `settings` are those that the weights were found with, for the card. `finish` may change the
        branch's folder before it appears.
        """
        self.require_free(name)
        for parent in parents:
            self[parent]
        shares = averaging.normalise(parents)
        origin = {
            "domains": [domain],
            "method": method,
            "estimator": estimator,
            "parents": {
                parent: {
                    "weight": share,
                    "raw": float(parents[parent]),
                    "sha256": self[parent].card.sha256,
                }
                for parent, share in shares.items()
            },
            "ancestors": [asdict(spent) for spent in ledger.lineage(self[p].card for p in shares)],
            **({"settings": settings} if settings else {}),
        }
        with self.new_branch(name, origin) as folder:
            averaging.average(
                {self[p].path: share for p, share in shares.items()}, folder, alive, EXACT
            )
            causal_lm.copy_files(self[next(iter(shares))].path, folder)
            if len(shares) > 1:
                ends.declare(folder, [self[p].path for p in shares])
            finish(folder)
        return self.get_branch(name)

    def root_branch(
        self,
        name: str,
        domains: list[str],
        model: "PreTrainedModel",
        *,
        source: str = "",
        source_sha256: str = "",
        license: str = "",
        parent: str | None = None,
        method: str = "none",
        tokenizer: Path | None = None,
    ) -> Branch:
        """Begin an ELM from `model`: new parameters, an imported model's (`source`), or a
        `parent`'s by `method`.

        An imported model keeps its own `tokenizer`, which makes the same tokens as the forest's:
        its chat template, say, is its own.
        """
        self.require_free(name)
        origin: Json = {
            "domains": domains,
            "method": method,
            "estimator": "",
            "parents": {},
            "source": source,
            "source_sha256": source_sha256,
            "license": license,
        }
        if parent is not None:
            origin["ancestors"] = [asdict(spent) for spent in ledger.lineage([self[parent].card])]
            origin["parents"] = {
                parent: {"weight": 1.0, "raw": 1.0, "sha256": self[parent].card.sha256}
            }
        with self.new_branch(name, origin) as folder:
            model.save_pretrained(folder, max_shard_size="5GB")
            tokenizer_files.copy(tokenizer or self.tokenizer, folder)
        return self.get_branch(name)

    def merge(self, branch: Branch, *, force: bool = False, terms: Terms = NONE_STATED) -> ELM:
        """Check and seal a trained branch and move it into ``elms/`` with one rename.

        Raises `UserError` if it is not trained, has a tensor that is not finite, another
        architecture or tokenizer than the forest, does not load, or is worse than its best parent
        on its own valid split and `force` is false. Nothing changes then. `terms` go on its card.
        """
        if branch.name in self:
            raise UserError(
                f"{self.root} has an ELM {branch.name!r} already; ELMs are never replaced"
            )
        with self.hold(branch.name) as (held, taken):
            return self._merge(held, force, terms, taken.beat)

    def _merge(self, branch: Branch, force: bool, terms: Terms, beat: Callable[[], None]) -> ELM:
        """Do `merge` under the lease; `beat` keeps it between passes over the weights."""
        tombstone.refuse(self.root, branch.name)
        tombstone.refuse_parents(self.root, tombstone.BRANCH, branch.name, branch.parents)
        result = seal.require_trained(branch)
        forced = seal.is_worse(branch.name, result, force)
        shape = self._check(branch, beat)
        beat()
        digests = weights.digests(branch.path)
        beat()
        card = seal.card(branch, result, self.identity["tokenizer_sha256"], shape, digests)
        card = descended(replace(card, forced=forced), self, terms)
        durable.write_json(branch.files.card, card.to_json())
        with durable.publish_file(branch.files.readme) as handle:
            handle.write(model_card.readme(card).encode())
        for leftover in [*branch.files.checkpoints(), *branch.path.glob(".tmp-*")]:
            # One that cannot be deleted stops the merge: it would be part of the ELM for ever.
            durable.remove_folder(leftover) if leftover.is_dir() else leftover.unlink()
        sums.write(branch.path, digests)
        beat()
        durable.sync_tree(branch.path)
        durable.make_folder(self.paths.elms)
        # Once more, for a removal that began after the checks.
        tombstone.refuse_parents(self.root, tombstone.BRANCH, branch.name, branch.parents)
        try:
            durable.rename_folder(branch.path, self.paths.elm(branch.name).path)
        except FileExistsError:
            raise UserError(f"{self.root}: another process merged {branch.name!r} first") from None
        except FileNotFoundError:
            raise lease.LostError(f"{branch.name!r} was taken over by another process") from None
        return self[branch.name]

    def require(self, architecture: str, tokenizer_sha256: str, what: str) -> None:
        """Raise `UserError` unless an architecture and a tokenizer are those of this forest."""
        ours = self.identity["tokenizer_sha256"]
        if why := other_beginning(tokenizer_sha256, ours):
            raise UserError(f"{what} has {why} {self.root}: give another forest=DIR")
        if tokenizer_sha256 != ours:
            raise UserError(
                f"{what} has another tokenizer than the forest {self.root} "
                f"({tokenizer_sha256[:12]} against {ours[:12]}): give another forest=DIR"
            )
        same = architecture == self.identity["architecture"]
        if not same and architecture != self._stored_architecture():
            raise UserError(
                f"{what} has another architecture than the forest {self.root}: "
                "give the model= it was planted with, or another forest=DIR"
            )

    def _stored_architecture(self) -> str | None:
        """Fingerprint the config of an ELM that stands; None without one.

        An older btm wrote fields into forest.json that change when a model is saved.
        """
        for name in self.names():
            return configs.fingerprint(causal_lm.load_config(self.paths.elm(name).path))
        return None

    def sweep(self) -> None:
        """Delete what killed processes left behind, but no ELM, no result and no branch that can
        become an ELM.
        """
        for folder in self.paths.places():
            durable.sweep(folder)
        for made in self.branches():
            home = made.path.with_name(made.name)
            if made.name in self and not lease.held(home):
                shutil.rmtree(
                    made.path, ignore_errors=True
                )  # a twin that lost the race to become this ELM

    def require_free(self, name: str) -> None:
        """Raise `UserError` unless `name` is valid and neither an ELM nor a branch has it."""
        check_name(name, "expert")
        tombstone.refuse(self.root, name)
        if name in self:
            raise UserError(f"{self.root} has an ELM {name!r} already; give another expert=NAME")
        if self.has_branch(name):
            raise UserError(
                f"{self.root} has a branch {name!r} already: "
                f"{command('train', expert=name, forest=self.root)}, or delete its folder"
            )

    @contextmanager
    def new_branch(self, name: str, origin: Json) -> Iterator[Path]:
        """Yield a folder that becomes the branch `name` with this `origin` when the block ends.

        Raises `UserError`, with nothing published, if one of its parents was removed meanwhile.
        """
        place, parents = self.paths.branch(name), list(origin["parents"])
        with durable.publish_folder(place) as folder:
            ModelFolder(folder).origin.write_text(json.dumps(origin, indent=1))
            with tombstone.require_parents(self.root, tombstone.BRANCH, name, parents):
                yield folder
            self.require_free(name)  # another process may have begun it meanwhile
        try:
            # A removal that looked for heirs before the rename has a tombstone by now, or looks
            # again after it (removal.remove): one of the two sees the other.
            tombstone.refuse_parents(self.root, tombstone.BRANCH, name, parents)
        except UserError:
            with suppress(FileNotFoundError):
                durable.remove_folder(place)
            raise

    def _check(self, branch: Branch, beat: Callable[[], None]) -> flops.Shape:
        """Check that a branch may be merged, and return its shape; `UserError` if it may not."""
        bad = weights.first_not_finite(branch.path)
        if bad is not None:
            raise UserError(
                f"branch {branch.name!r} has a NaN or an infinity in tensor {bad!r}: not merged"
            )
        beat()
        from btm.data.tokenizer import tokenizer_sha256

        fingerprint = configs.fingerprint(causal_lm.load_config(branch.path))
        self.require(fingerprint, tokenizer_sha256(branch.path), f"branch {branch.name!r}")
        for parent in branch.parents:
            if parent in self:
                averaging.require_same_tensors(self[parent].path, branch.path)
        return flops.Shape.of(causal_lm.load_model(branch.path))
