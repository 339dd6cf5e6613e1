"""A server of experts that are adapters of one base: each request has the expert it names, and the
base is in memory once.
"""

import queue
import shutil
from dataclasses import replace

import pytest
import torch
from drawn_adapters import add

from btm.config.load import LoadConfig
from btm.ensemble.sampling import Sampling
from btm.forest import Forest
from btm.models import inference
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.request import Done, Request, Token

LENGTH = 6


def greedy(model, tokens):
    """What a model writes by itself, one token at a time, and log p of each."""
    tokens, scores = list(tokens), []
    with torch.no_grad():
        for _ in range(LENGTH):
            logp = model(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(logp.argmax()))
            scores.append(float(logp.max()))
    return tokens[-LENGTH:], scores


@pytest.mark.slow
def test_requests_switch_between_adapters_of_one_base(grown, tmp_path):
    root = shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    forest, names = Forest(root), ["a0", "a1", "seed"]
    for number in range(2):
        add(forest, f"a{number}", {"seed": 1.0}, number)
    catalog = Catalog(replace(grown[0], forest=str(root)))
    engine = Engine(catalog)
    engine.start()
    try:
        prompts = {"bible": (40, 41, 42), "speeches": (77, 50, 60, 9)}
        asked = {}
        for name in names * 2:  # both texts by each in turn, all at once
            prompt = prompts["bible" if name not in asked else "speeches"]
            events = queue.Queue()
            engine.submit(
                Request(name, prompt, LENGTH, Sampling(temperature=0), ignore_ends=True), events.put
            )
            asked.setdefault(name, []).append((prompt, events))
        written = {}
        for name, answers in asked.items():
            whole = inference.load(forest[name].path, "cpu", LoadConfig())
            for prompt, events in answers:
                found = []
                while not found or not isinstance(found[-1], Done):
                    found.append(events.get(timeout=60))
                new = [event for event in found if isinstance(event, Token)]
                tokens, scores = greedy(whole, (catalog.start, *prompt))
                assert [event.id for event in new] == tokens, (name, prompt)
                assert [event.logp for event in new] == pytest.approx(scores, abs=1e-4)
                written.setdefault(prompt, set()).add(round(new[0].logp, 2))
        assert all(len(different) == len(names) for different in written.values())
        members = [engine.members[sha].model for sha in engine.members.loaded()]
        held = {model.get_input_embeddings().weight.data_ptr() for model in members}
        assert (len(members), len(held)) == (3, 1)  # one base, which the seed is too
    finally:
        engine.close()
