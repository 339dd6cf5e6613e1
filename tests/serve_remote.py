"""Requests to an engine whose ensemble has an expert that another server runs."""

import queue
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from btm.ensemble.sampling import Sampling
from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.request import Done, Prompt, Request, Token

TEXTS = ("In the beginning", "def main(", "", "My friends, we")


def remote(config, url, **values):
    served = replace(config.serve, remote={"bible": {"url": url, "model": "bible"} | values})
    return Catalog(replace(config, serve=served))


@contextmanager
def engine_of(catalog):
    catalog.remotes.connect()
    catalog.refresh()
    engine = Engine(catalog)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def answers(engine, requests):
    """The events of requests that are asked all at once."""
    queues = [queue.Queue() for _ in requests]
    for request, events in zip(requests, queues, strict=True):
        engine.submit(request, events.put)
    return [collected(events) for events in queues]


def collected(events):
    found = []
    while not found or not isinstance(found[-1], Done):
        found.append(events.get(timeout=60))
    assert found[-1].error == ""
    return found


def requests_of(catalog, model="forest", tokens=8, temperature=0.0):
    tokenizer = deepcopy(catalog.tokenizer)
    prompts = [tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in TEXTS]
    sampling = Sampling(temperature=temperature, seed=1)
    return [
        Request(model, p, tokens, sampling, ignore_ends=True, posterior=True, score_prompt=True)
        for p in prompts
    ]


def tokens_of(events):
    told = next(event.tokens for event in events if isinstance(event, Prompt))
    return [*told, *(event for event in events if isinstance(event, Token))]


def require_same(found, wanted, far=1e-5):
    """Require the same tokens and posteriors, and log-probs within what is stated."""
    for mine, theirs in zip(map(tokens_of, found), map(tokens_of, wanted), strict=True):
        assert [token.id for token in mine] == [token.id for token in theirs]
        for token, exact in zip(mine, theirs, strict=True):
            assert token.posterior == pytest.approx(exact.posterior, abs=far)
            assert abs(np.exp(token.logp) - np.exp(exact.logp)) <= token.bound + far
