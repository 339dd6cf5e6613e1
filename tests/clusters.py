"""Four domains without their labels, what discovery makes of them, and a forest grown on the
clusters.
"""

import json

import pytest
import torch
from folders import DEMO

from btm import steps
from btm.cli.compose import compose
from btm.config.data import DataConfig, DiscoverConfig
from btm.data.discover import corpus
from btm.data.domains import find

DOMAINS = ["bible", "code_python", "metamath", "speeches"]


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """Four domains with as many documents each, so that balanced clusters can be the domains."""
    root = tmp_path_factory.mktemp("texts")
    for source in find(DEMO):
        if source.domain not in DOMAINS:
            continue
        (root / source.domain).mkdir()
        kept = {"train": 120, "valid": 12, "test": 12}
        for split, text in source.documents("text"):
            if kept[split]:
                kept[split] -= 1
                with (root / source.domain / f"{split}.jsonl").open("a") as file:
                    file.write(json.dumps({"text": text}) + "\n")
    return root


@pytest.fixture(scope="session")
def found(unlabelled, tmp_path_factory):
    target = tmp_path_factory.mktemp("found") / "domains"
    rows = corpus.discover(
        DataConfig(root=str(unlabelled)), DiscoverConfig(k=4, sample=600), target, lambda text: None
    )
    return target, rows


@pytest.fixture(scope="session")
def clustered(found, tmp_path_factory):
    """Overrides for, and the result of, a whole cycle on the clusters that ends with their
    router.
    """
    root = tmp_path_factory.mktemp("clustered")
    words = [
        "experiment=smoke",
        f"data.root={found[0]}",
        "data.name=clusters",
        f"data.out={root / 'data'}",
        f"forest={root / 'forest'}",
        "ensemble=router",
        "run.rounds=[]",
        "run.average=false",
        "seed.steps=20",
        "trainer.steps=40",
        "trainer.checkpoint_every=100",
        "trainer.threads=1",
        "score.max_tokens=4000",
    ]
    config = compose(words)
    threads = torch.get_num_threads()
    result = steps.run(config)
    torch.set_num_threads(threads)  # threads_as_before comes too late for a session's fixture
    return words, config, result
