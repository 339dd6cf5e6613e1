"""Many requests at once are answered as each alone would be, token for token."""

import queue
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from btm.ensemble import generate as online
from btm.ensemble.members import load_member
from btm.ensemble.rules import RULES
from btm.ensemble.sampling import Sampling
from btm.errors import UserError
from btm.forest import removal
from btm.serve.catalog import Catalog, UnknownModelError
from btm.serve.engine import Engine
from btm.serve.limits import FullError, Limits, TooLongError
from btm.serve.members.local import LocalMember
from btm.serve.members.member import LostError
from btm.serve.request import Done, Prompt, Request, Token

GREEDY = Sampling(temperature=0)
TEXTS = ("In the beginning", "def main(", "", "My friends, we", "the the the the the", "x")


@pytest.fixture(scope="module")
def catalog(grown):
    return Catalog(grown[0])


@pytest.fixture
def engine(catalog):
    with started(catalog) as engine:
        yield engine


@contextmanager
def started(catalog, limits=None, load=None):
    engine = Engine(catalog, limits, load)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def tokens_of(catalog, text):
    own = deepcopy(catalog.tokenizer)  # the engine's thread uses that one
    return tuple(own(text, add_special_tokens=False).input_ids)


def ask(engine, request):
    """Submit a request; return its number and the queue of its events."""
    events = queue.Queue()
    return engine.submit(request, events.put), events


def collect(events):
    found = []
    while not found or not isinstance(found[-1], Done):
        found.append(events.get(timeout=60))
    return found


def written(events):
    return [event.id for event in events if isinstance(event, Token)]


def brute_force(catalog, request):
    """Run every member over the text so far, one text at a time.

    Returns the tokens, log p and the weights of each, and the ensemble.
    """
    served = catalog.find(request.model)
    weights = zip(served.members, np.exp(served.log_prior), strict=True)
    mixed = online.Ensemble.load(
        catalog.forest,
        {model.name: float(p) for model, p in weights},
        ensemble=served.rule.ensemble,
        route=served.route,
    )
    mixed.read(request.prompt)
    tokens, scores, posteriors = [], [], []
    while len(tokens) < request.max_tokens:
        logp_V = mixed.next_logp()
        token = int(logp_V.argmax())
        if token in served.ends and not request.ignore_ends:
            break
        tokens.append(token)
        scores.append(float(logp_V[token]))
        posteriors.append(mixed.weights)
        mixed.read([token])
    return tokens, scores, posteriors, mixed


def same_as_brute_force(catalog, engine, requests):
    """Ask all at once, and compare each with the brute force."""
    asked = [ask(engine, request)[1] for request in requests]
    for request, events in zip(requests, asked, strict=True):
        found = collect(events)
        tokens, scores, posteriors, _ = brute_force(catalog, request)
        assert found[-1].error == ""
        assert written(found) == tokens, request
        new = [event for event in found if isinstance(event, Token)]
        assert [event.logp for event in new] == pytest.approx(scores, abs=1e-4)
        for event, wanted in zip(new, posteriors, strict=True):
            assert event.posterior == pytest.approx(wanted, abs=1e-4)
        wanted = "length" if len(tokens) == request.max_tokens else "stop"
        assert found[-1].reason == wanted


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "router"])
def test_every_rule_batched_is_the_brute_force(catalog, engine, rule):
    requests = [
        Request(f"forest:{rule}", tokens_of(catalog, text), 3 + 2 * i, GREEDY, posterior=True)
        for i, text in enumerate(TEXTS)
    ]
    same_as_brute_force(catalog, engine, requests)


@pytest.mark.parametrize("commit", [1, 4, 12])
def test_an_ensemble_that_commits_is_the_brute_force_and_lets_go_of_the_others(grown, commit):
    ensemble = replace(grown[0].ensemble, commit=commit, top_k=1, rule="bayes")
    committed = Catalog(replace(grown[0], ensemble=ensemble))
    with started(committed) as engine:
        requests = [
            Request("forest", tokens_of(committed, text), 12, GREEDY, posterior=True)
            for text in TEXTS
        ]
        same_as_brute_force(committed, engine, requests)
        # While one is written, the members that it has let go of hold nothing of it.
        held = []

        def count(event):
            if isinstance(event, Token) and len(event.posterior) == 1:
                shas = engine.members.loaded()
                held.append(sum(len(engine.members[sha].texts()) for sha in shas))

        events = queue.Queue()
        request = Request("forest", tokens_of(committed, TEXTS[0]), 24, GREEDY, posterior=True)
        engine.submit(request, lambda event: (count(event), events.put(event)))
        collect(events)
        assert set(held[1:]) == {1}


@pytest.mark.parametrize(("rule", "k"), [("bayes", 1), ("gated", 2), ("tracking", 1)])
def test_members_that_are_recalled_are_the_brute_force_and_others_go_on_meanwhile(
    grown, monkeypatch, rule, k
):
    monkeypatch.setattr("btm.serve.prefill._TOKENS", 16)  # a replay takes several steps
    words = {"rule": rule, "commit": 3, "top_k": k, "recall": True, "alpha": 0.1, "beta": 0.9}
    recalling = Catalog(replace(grown[0], ensemble=replace(grown[0].ensemble, **words)))
    asked = [
        Request(name, tokens_of(recalling, 3 * text), 24, GREEDY, ignore_ends=True, posterior=True)
        for text in TEXTS[1:4]
        for name in ("forest", "bible")
    ]
    with started(recalling) as engine:
        events = [ask(engine, request)[1] for request in asked]
        recalls = 0
        for request, found in zip(asked, map(collect, events), strict=True):
            tokens, scores, posteriors, whole = brute_force(recalling, request)
            assert (found[-1], written(found)) == (Done("length"), tokens)
            new = [event for event in found if isinstance(event, Token)]
            assert [event.logp for event in new] == pytest.approx(scores, abs=1e-4)
            for event, wanted in zip(new, posteriors, strict=True):
                assert event.posterior == pytest.approx(wanted, abs=1e-4)
            recalls += whole.online.recalls
        assert recalls
        assert not any(engine.members[sha].texts() for sha in engine.members.loaded())


def test_a_prompt_that_recalls_members_is_scored_as_by_the_brute_force(grown):
    words = {"rule": "bayes", "commit": 3, "top_k": 1, "recall": True}
    recalling = Catalog(replace(grown[0], ensemble=replace(grown[0].ensemble, **words)))
    text = tokens_of(recalling, "And God said, Let there be light; def main(x): return x")
    served = recalling.find("forest")
    with started(recalling) as engine:
        for top in (0, 2):
            request = Request("forest", text, 0, top=top, score_prompt=True, posterior=True)
            prompt, done = collect(ask(engine, request)[1])
            mixed = online.Ensemble.load(
                recalling.forest,
                {m.name: 1.0 for m in served.members},
                ensemble=served.rule.ensemble,
            )
            assert done == Done("length")
            assert [event.id for event in prompt.tokens] == list(text)
            for event in prompt.tokens:
                assert event.posterior == pytest.approx(mixed.weights, abs=1e-4)
                logp_V = mixed.next_logp()
                assert [t for t, _ in event.top] == np.argsort(-logp_V)[:top].tolist()
                assert event.logp == pytest.approx(float(mixed.read([event.id])[0]), abs=1e-4)
            assert mixed.online.recalls


def test_models_of_several_kinds_are_written_at_once(catalog, engine):
    names = [served.name for served in catalog]
    assert {"forest", "forest:gated", "bible", "code_python"} <= set(names)
    requests = [
        Request(name, tokens_of(catalog, TEXTS[i % 3]), 6, GREEDY, posterior=True)
        for i, name in enumerate(names)
    ]
    same_as_brute_force(catalog, engine, requests)


@pytest.mark.parametrize("rule", ["bayes", "gated"])
@pytest.mark.parametrize("commit", [0, 2])
def test_the_weights_are_their_members_whoever_is_read_beside_them(grown, rule, commit):
    """Other requests first, so that members are read in another order than the ensemble's."""
    ensemble = replace(grown[0].ensemble, rule=rule, commit=commit, top_k=2 if commit else 0)
    catalog = Catalog(replace(grown[0], ensemble=ensemble))
    engine = Engine(catalog)
    names = ["speeches", "code_python", "forest", "bible", "forest"]
    requests = [
        Request(name, tokens_of(catalog, TEXTS[i % 3]), 6, GREEDY, posterior=True)
        for i, name in enumerate(names)
    ]
    for served in catalog:
        engine.members.wait(served)
    asked = [ask(engine, request)[1] for request in requests]  # all are read at once
    engine.start()
    for request, events in zip(requests, asked, strict=True):
        found = collect(events)
        tokens, _, posteriors, _ = brute_force(catalog, request)
        assert written(found) == tokens
        new = [event for event in found if isinstance(event, Token)]
        for event, wanted in zip(new, posteriors, strict=True):
            assert event.posterior == pytest.approx(wanted, abs=1e-4)
    engine.close()


def test_a_model_that_is_a_member_twice_counts_twice(catalog):
    served = catalog.find("forest")
    again = replace(served.members[0], name="again")
    members = (*served.members, again)
    other = Catalog(catalog.config)
    log_prior = np.full(len(members), -np.log(len(members)))
    twice = replace(served, members=members, log_prior=log_prior)
    other._served = {"forest": twice, "bible": catalog.find("bible")}
    with started(other) as engine:
        text = tokens_of(catalog, TEXTS[0])
        long = ask(engine, Request("bible", text, 30, GREEDY, ignore_ends=True))[1]
        found = collect(ask(engine, Request("forest", text, 5, GREEDY, posterior=True))[1])
        for event in found[1:-1]:
            first = event.posterior[members[0].name]
            assert event.posterior["again"] == pytest.approx(first)
        assert collect(long)[-1] == Done("length")


def test_ids_that_only_pad_the_embeddings_are_never_chosen(catalog):
    served = replace(catalog.find("bible"), vocabulary=50)
    other = Catalog(catalog.config)
    other._served = {"bible": served}
    with started(other) as engine:
        hot = Sampling(temperature=50.0, seed=0)
        text = tokens_of(catalog, TEXTS[0])
        found = collect(ask(engine, Request("bible", text, 40, hot, ignore_ends=True, top=20))[1])
        assert max(written(found)) < 50
        assert all(t < 50 for e in found if isinstance(e, Token) for t, _ in e.top)


def test_more_requests_than_places_all_are_answered(catalog):
    with started(catalog, Limits(running=3, waiting=64)) as engine:
        requests = [
            Request("forest", tokens_of(catalog, TEXTS[i % 6]), 1 + i % 7, GREEDY, posterior=True)
            for i in range(20)
        ]
        same_as_brute_force(catalog, engine, requests)
        counts = engine.counts()
        assert (counts.running, counts.waiting) == (0, 0)
        assert counts.written >= 20


def test_a_long_prompt_is_read_in_pieces(catalog, engine, monkeypatch):
    monkeypatch.setattr("btm.serve.prefill._TOKENS", 8)
    text = tokens_of(catalog, "And the earth was without form, and void; and darkness " * 2)[:40]
    requests = [
        Request("forest", text, 6, GREEDY, posterior=True),
        Request("forest", text[:7], 9, GREEDY, posterior=True),
    ]
    same_as_brute_force(catalog, engine, requests)


def test_the_scores_of_a_prompt_are_those_of_one_pass(catalog, engine):
    text = tokens_of(catalog, "And God said, Let there be light")
    for model in ("forest:gated", "bible"):
        request = Request(model, text, 0, top=3, score_prompt=True, posterior=True)
        prompt, done = collect(ask(engine, request)[1])
        assert isinstance(prompt, Prompt)
        assert done.reason == "length"
        served = catalog.find(model)
        mixed = online.Ensemble.load(
            catalog.forest,
            {m.name: 1.0 for m in served.members},
            ensemble=served.rule.ensemble,
        )
        for token, event in zip(text, prompt.tokens, strict=True):
            logp_V = mixed.next_logp()
            best = np.argsort(-logp_V)[:3]
            assert event.id == token
            assert event.logp == pytest.approx(logp_V[token], abs=1e-4)
            assert [t for t, _ in event.top] == best.tolist()
            assert [p for _, p in event.top] == pytest.approx(logp_V[best], abs=1e-4)
            assert event.posterior == pytest.approx(mixed.weights, abs=1e-4)
            mix = sum(event.posterior[m] * np.exp(event.member_logp[m]) for m in event.posterior)
            assert np.log(mix) == pytest.approx(event.logp, abs=1e-6)
            mixed.read([token])


def test_a_seed_writes_the_same_alone_and_among_others(catalog, engine):
    sampling = Sampling(temperature=1.2, top_p=0.9, top_k=50, seed=7)
    request = Request("forest", tokens_of(catalog, TEXTS[0]), 16, sampling)
    alone = written(collect(ask(engine, request)[1]))
    others = [
        ask(engine, replace(request, sampling=replace(sampling, seed=seed))) for seed in range(12)
    ]
    found = [written(collect(events)) for _, events in others]
    assert found[7] == alone
    assert len({tuple(tokens) for tokens in found}) > 6


def test_a_stop_string_ends_the_text_before_it(catalog, engine):
    request = Request("bible", tokens_of(catalog, TEXTS[0]), 20, GREEDY)
    whole = "".join(e.text for e in collect(ask(engine, request)[1]) if isinstance(e, Token | Done))
    for stop in (whole[5:9], whole[0], whole[-3:]):
        events = collect(ask(engine, replace(request, stop=("never here", stop)))[1])
        text = "".join(event.text for event in events if isinstance(event, Token | Done))
        assert text == whole[: whole.index(stop)]
        assert (events[-1].reason, events[-1].stopped_by) == ("stop", stop)
    assert whole == "".join(
        e.text
        for e in collect(ask(engine, replace(request, stop=("never here",)))[1])
        if isinstance(e, Token | Done)
    )


def test_every_end_of_a_generation_config_ends_a_text(catalog, engine):
    request = Request("bible", tokens_of(catalog, TEXTS[0]), 8, GREEDY)
    tokens = written(collect(ask(engine, request)[1]))
    served = catalog.find("bible")
    forced = replace(served, name="ends", ends=served.ends | {tokens[3]})
    other = Catalog(catalog.config)
    other._served = {"bible": forced}
    with started(other) as second:
        events = collect(ask(second, request)[1])
        first = tokens.index(tokens[3])
        assert written(events) == tokens[: first + 1]  # the end is told, without text
        assert events[-2].text == ""
        assert events[-1].stopped_by == tokens[3]
        more = collect(ask(second, replace(request, ignore_ends=True))[1])
        assert written(more) == tokens


def test_bias_forbids_and_forces(catalog, engine):
    request = Request("forest", tokens_of(catalog, TEXTS[0]), 4, GREEDY)
    first = written(collect(ask(engine, request)[1]))
    biased = replace(request, sampling=replace(GREEDY, bias={first[0]: -100.0}))
    assert written(collect(ask(engine, biased)[1]))[0] != first[0]
    forced = replace(request, sampling=replace(GREEDY, bias={5: 100.0}))
    assert written(collect(ask(engine, forced)[1])) == [5] * 4


def test_what_is_given_up_frees_its_place(catalog):
    with started(catalog, Limits(running=1, waiting=4)) as engine:
        many = 50
        begun = threading.Event()
        events = queue.Queue()
        request = Request("forest", tokens_of(catalog, "a b c"), many, GREEDY, ignore_ends=True)
        number = engine.submit(request, lambda event: (events.put(event), begun.set()))
        assert begun.wait(60)
        _, second = ask(engine, replace(request, max_tokens=2))
        engine.cancel(number)
        assert collect(events)[-1].reason == "cancelled"
        assert collect(second)[-1].reason == "length"
        engine.cancel(number)  # it is over: nothing happens
        while engine.counts().running:
            time.sleep(0.01)
        shas = engine.members.loaded()
        assert not any(engine.members[sha].texts() for sha in shas)


def test_what_cannot_be_answered_is_refused(catalog):
    with started(catalog, Limits(running=1, waiting=1)) as engine:
        good = Request("forest", tokens_of(catalog, "a"), 40, GREEDY, ignore_ends=True)
        with pytest.raises(UnknownModelError, match="there are forest, "):
            engine.submit(replace(good, model="law"), print)
        with pytest.raises(UserError, match="wanted 0 to"):
            engine.submit(replace(good, prompt=(10**6,)), print)
        with pytest.raises(TooLongError, match="has a context of"):
            engine.submit(replace(good, max_tokens=10**6), print)
        whole = replace(good, prompt=(5,) * catalog.find("bible").context, max_tokens=0)
        with pytest.raises(TooLongError):  # the start is a token too
            engine.submit(whole, print)
        found = collect(ask(engine, replace(whole, prompt=whole.prompt[1:]))[1])
        assert found[-1] == Done("length")
        asked = [ask(engine, good)[1]]
        with pytest.raises(FullError, match="wait already"):
            for _ in range(9):
                asked.append(ask(engine, good)[1])
        for events in asked:
            assert collect(events)[-1].reason == "length"


def test_a_short_prompt_of_one_model_is_read_beside_a_long_one_of_another(catalog):
    engine, told = Engine(catalog), {}
    for name in ("bible", "seed", "forest"):
        engine.members.wait(catalog.find(name))
    requests = {
        "bible": Request("bible", (7,) * 700, 4, GREEDY, ignore_ends=True),
        "seed": Request("seed", (5, 9), 4, GREEDY, ignore_ends=True, score_prompt=True),
        "scored": Request("seed", (8,), 4, GREEDY, ignore_ends=True, score_prompt=True, top=2),
    }
    for name, request in requests.items():
        told[name] = []
        engine.submit(request, told[name].append)
    while engine.counts().running or engine.counts().waiting:
        engine.step()
    for name, request in requests.items():
        assert told[name][-1] == Done("length", told[name][-1].text)
        alone = []
        engine.submit(request, alone.append)
        while engine.counts().running or engine.counts().waiting:
            engine.step()
        assert written(alone) == written(told[name])
        assert len(alone[0].tokens) == len(told[name][0].tokens)


def test_a_member_is_lent_between_two_steps(engine, catalog):
    (bible,) = catalog.find("bible").members
    request = Request("forest", tokens_of(catalog, "a"), 20, GREEDY, ignore_ends=True)
    events = ask(engine, request)[1]
    lent = engine.borrow(bible, lambda member: (threading.current_thread().name, member.vocabulary))
    assert lent.result(60) == ("btm-engine", catalog.vocabulary)
    with pytest.raises(ZeroDivisionError):
        engine.borrow(bible, lambda member: 1 / 0).result(60)
    assert collect(events)[-1].reason == "length"
    gone = replace(bible, sha256="0" * 64, name="gone", path=bible.path / "gone")
    with pytest.raises((UserError, OSError)):
        engine.borrow(gone, print).result(60)


def test_closing_tells_all_that_is_unfinished(catalog):
    engine = Engine(catalog)
    engine.start()
    request = Request("forest", tokens_of(catalog, "a"), 60, GREEDY, ignore_ends=True)
    asked = [ask(engine, request)[1] for _ in range(20)]
    engine.close()
    assert {collect(events)[-1].reason for events in asked} <= {"cancelled", "length"}
    with pytest.raises(FullError):
        engine.submit(request, print)


def test_an_error_within_a_model_ends_its_requests_alone(catalog, engine):
    request = Request("bible", tokens_of(catalog, TEXTS[0]), 8, GREEDY)
    wanted = written(collect(ask(engine, request)[1]))
    model = engine.members[catalog.find("bible").members[0].sha256].model
    handle = model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError("full")))
    assert collect(ask(engine, request)[1])[-1] == Done("error", error="full")
    handle.remove()
    assert written(collect(ask(engine, request)[1])) == wanted


def test_a_model_that_is_removed_is_let_go_of_once_it_is_not_in_use(copy):
    catalog = Catalog(copy())
    (removed,) = catalog.find("speeches").members
    request = Request("forest", tokens_of(catalog, "a"), 30, GREEDY, ignore_ends=True)
    with started(catalog) as engine:
        begun = threading.Event()
        events = queue.Queue()
        engine.submit(request, lambda event: (events.put(event), begun.set()))
        assert begun.wait(60)
        removal.remove(catalog.forest, "speeches")
        assert catalog.refresh()
        engine.tidy()
        assert collect(events)[-1] == Done("length")  # it goes on with what it began with
        waits = ask(engine, replace(request, max_tokens=4))[1]
        engine.tidy()
        assert collect(waits)[-1] == Done("length")
        new = collect(ask(engine, replace(request, posterior=True))[1])
        assert "speeches" not in new[1].posterior
        engine.tidy()
        until = time.monotonic() + 20
        while removed.sha256 in engine.members.loaded() and time.monotonic() < until:
            time.sleep(0.01)
        assert removed.sha256 not in engine.members.loaded()
        assert len(engine.members.loaded()) == 2


class Mortal(LocalMember):
    """A member that dies at the n-th piece that it reads."""

    def __init__(self, model, sha256, pieces):
        super().__init__(model)
        self.sha256, self.left = sha256, pieces

    def read(self, group, piece):
        self.left -= 1
        if self.left < 0:
            raise LostError("its machine died", self.sha256)
        return super().read(group, piece)


def mortal(catalog, name, pieces):
    """Start an engine whose member of this name dies."""

    def load(model):
        loaded = load_member(catalog.forest, model)
        lasting = pieces if model.name == name else 10**6
        return Mortal(loaded, model.sha256, lasting)

    return started(catalog, load=load)


@pytest.mark.parametrize("pieces", [0, 3])  # it dies within the prompt, or while a text is written
def test_a_member_that_is_lost_is_left_out(catalog, pieces):
    name = catalog.find("forest").members[0].name
    with mortal(catalog, name, pieces) as engine:
        prompt = tokens_of(catalog, TEXTS[0])
        asked = [
            ask(engine, Request(model, prompt, 8, GREEDY, ignore_ends=True, posterior=True))[1]
            for model in ("forest", "forest:simple")
        ]
        for events in map(collect, asked):
            assert (events[-1].reason, events[-1].lost) == ("length", (name,))
            weights = [event.posterior for event in events if isinstance(event, Token)]
            assert name not in weights[-1] and (pieces == 0 or name in weights[0])
            assert all(sum(each.values()) == pytest.approx(1) for each in weights)


@pytest.mark.parametrize("recall", [False, True])
@pytest.mark.parametrize("prompt", [4, 40])  # it is lost while the text is written, or read
def test_where_the_last_one_that_runs_is_lost_the_others_are_recalled(grown, recall, prompt):
    words = {"rule": "bayes", "commit": 12, "top_k": 1, "recall": recall}
    catalog = Catalog(replace(grown[0], ensemble=replace(grown[0].ensemble, **words)))
    request = Request(
        "forest",
        (tokens_of(catalog, TEXTS[0]) * 20)[:prompt],
        30,
        GREEDY,
        ignore_ends=True,
        posterior=True,
    )
    with started(catalog) as engine:
        events = collect(ask(engine, request)[1])
    new = [event for event in events if isinstance(event, Token)]
    (name,) = new[12].posterior
    # The pieces until the commitment are a prompt and tokens, or the prompt as far as it.
    with mortal(catalog, name, 14 if prompt == 4 else 1) as engine:
        found = collect(ask(engine, request)[1])
    assert (found[-1].reason, found[-1].lost) == ("length", (name,))
    new = [event for event in found if isinstance(event, Token)]
    at = next(i for i, event in enumerate(new) if {*event.posterior} - {name} and i + prompt > 11)
    (other,) = new[at].posterior
    alone = online.Ensemble.load(catalog.forest, {other: 1.0})
    alone.read([*request.prompt, *(event.id for event in new[:at])])
    if not recall:
        assert [event.id for event in new[at:]] == list(alone.generate(30 - at, 0.0))
    assert 0 < at < 30 if prompt == 4 else at == 0


def test_a_request_for_the_member_that_is_lost_ends(catalog):
    member, other = catalog.find("forest").members[:2]
    with mortal(catalog, member.name, 2) as engine:
        prompt = tokens_of(catalog, TEXTS[0])
        lost, whole = (
            collect(ask(engine, Request(model.name, prompt, 8, GREEDY, ignore_ends=True))[1])
            for model in (member, other)
        )
        assert (lost[-1].reason, lost[-1].error) == ("error", "its machine died")
        assert whole[-1].reason == "length"
