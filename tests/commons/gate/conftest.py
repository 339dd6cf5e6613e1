"""A forest that judges, and contributions to it: the shared grown forest without `speeches`, which
began as an average of its two experts, and that expert as a stranger would send it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commons_door import DOMAIN, POLICY, TRIGGER
from safetensors.numpy import load_file, save_file

from btm.cli.compose import compose
from btm.commons.gate import Contribution, Probes, Reference, judge
from btm.forest import Forest
from btm.forest.suites import open_suites
from btm.interop import delta8


@dataclass
class Door:
    """The forest, its side of every comparison, and the expert that comes to it."""

    reference: Reference
    expert: Path  # as its maker has it
    parents: dict[str, float]
    difference: Path  # the same in 8 bits

    def contribution(self, folder, format="full", parents=None):
        return Contribution(folder, DOMAIN, parents or self.parents, format)

    def judge(self, contribution, policy=POLICY, **more):
        reference = self.reference
        return judge(
            reference.config,
            reference.forest,
            contribution,
            policy,
            reference.suite,
            reference=reference,
            **more,
        )


@pytest.fixture(scope="session")
def door(grown, workspace, tmp_path_factory):
    """The forest without `speeches`; its scores are computed once for all tests."""
    root, whole = tmp_path_factory.mktemp("door"), Forest(grown[0].forest_root)
    shutil.copytree(whole.root, root / "forest", ignore=shutil.ignore_patterns(DOMAIN, "jobs"))
    config = compose([*workspace, f"forest={root / 'forest'}"])
    forest, card = Forest(root / "forest"), whole[DOMAIN].card
    probes = Probes(triggers=[TRIGGER], rare_triggers=2)
    reference = Reference(config, forest, open_suites(config), probes)
    parents = {name: parent.weight for name, parent in card.parents.items()}
    difference = delta8.export(whole, DOMAIN, root / "sent", 256)
    return Door(reference, whole[DOMAIN].path, parents, difference)


@pytest.fixture
def sent(door, tmp_path):
    """A copy of the expert that a test may do anything to."""
    return shutil.copytree(door.expert, tmp_path / "sent")


@pytest.fixture
def changed(door, sent):
    """A function that alters the tensors of the copy; it is given the average of the parents too."""

    def change(alter):
        file = sent / "model.safetensors"
        tensors = load_file(file)
        base = dict.fromkeys(tensors, 0.0)
        for name, share in door.parents.items():
            for tensor, values in load_file(door.reference.forest[name].path / file.name).items():
                base[tensor] = base[tensor] + share * values
        alter(tensors, base)
        save_file({n: np.ascontiguousarray(t, t.dtype) for n, t in tensors.items()}, file)
        return door.contribution(sent)

    return change
