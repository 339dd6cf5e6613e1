"""Members in int8 and in 16 bits: what is asked at once is answered as each alone would be."""

import queue
from dataclasses import replace

import numpy as np
import pytest

from btm.config.load import LoadConfig
from btm.ensemble import generate as online
from btm.ensemble.sampling import Sampling
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.request import Done, Request, Token

TEXTS = ("In the beginning", "def main(", "", "the the the the the")


def test_a_fingerprint_is_of_how_models_are_loaded(grown):
    pytest.importorskip("fastapi")
    from btm.serve.http.shapes import fingerprint

    for name in ("forest", "bible"):
        found = {
            fingerprint(Catalog(replace(grown[0], load=load)).find(name))
            for load in (LoadConfig(), LoadConfig("int8"), LoadConfig("int8", "bf16"))
        }
        assert len(found) == 3


@pytest.mark.parametrize("load", [LoadConfig("int8"), LoadConfig("int8", "bf16")])
def test_the_engine_answers_as_the_ensemble_writes(grown, load):
    pytest.importorskip("bitsandbytes")
    catalog = Catalog(replace(grown[0], load=load))
    served, engine = catalog.find("forest"), Engine(catalog)
    engine.start()
    try:
        answers = []
        for text in TEXTS:
            prompt = tuple(catalog.tokenizer(text, add_special_tokens=False).input_ids)
            events: queue.Queue = queue.Queue()
            engine.submit(Request("forest", prompt, 8, Sampling(temperature=0)), events.put)
            answers.append((prompt, events))
        for prompt, events in answers:
            found = []
            while not isinstance(event := events.get(timeout=60), Done):
                found += [event] if isinstance(event, Token) else []
            assert event.reason in ("length", "stop"), event.error
            prior = {m.name: float(np.exp(served.log_prior[0])) for m in served.members}
            mixed = online.Ensemble.load(
                catalog.forest, prior, ensemble=served.rule.ensemble, load=load
            )
            mixed.read(prompt)
            assert found
            for token in found:
                logp_V = mixed.next_logp()
                # In 16 bits a batch is rounded otherwise than a text alone, as without int8.
                assert token.logp == pytest.approx(
                    logp_V[token.id], abs=1e-4 if load.dtype == "fp32" else 0.05
                )
                if load.dtype == "fp32":
                    assert token.id == int(logp_V.argmax())
                mixed.read([token.id])
    finally:
        engine.close()
