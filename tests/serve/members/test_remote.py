"""An expert that another server runs does in the ensemble what it does here, up to a stated bound."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_remote import answers, engine_of, remote, requests_of, require_same, tokens_of

from btm.cli import main
from btm.config.remote_experts import remote_experts
from btm.config.schema import Config
from btm.config.serve import check_serve
from btm.errors import UserError
from btm.serve.catalog import Catalog
from btm.serve.members import loading
from btm.serve.members.member import LostError
from btm.serve.members.remote.answers import Likeliest, Named, choices_of
from btm.serve.request import Request

RECALLING = {"rule": "bayes", "commit": 3, "top_k": 1, "recall": True}
CLOSED = "http://127.0.0.1:9/v1"  # nobody listens there


@pytest.fixture(scope="module")
def open_handed(grown, serve):
    """A server that tells as many likeliest tokens as there are."""
    with serve(grown[0], max_logprobs=512) as found:
        yield found


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("words", [{"rule": "bayes"}, {"rule": "gated"}, RECALLING])
def test_a_remote_expert_is_as_good_as_the_local_one(grown, without, open_handed, words):
    local, far = (
        replace(config, ensemble=replace(config.ensemble, **words))
        for config in (grown[0], without)
    )
    local, far = Catalog(local), remote(far, f"{open_handed.url}/v1", top=512)
    assert far.find("forest").members[-1].kind == "remote"
    with engine_of(local) as engine:
        wanted = answers(engine, requests_of(local, tokens=24))
    with engine_of(far) as engine:
        found = answers(engine, requests_of(far, tokens=24))
    require_same(found, wanted)
    assert max(token.bound for events in found for token in tokens_of(events)) == 0


@pytest.mark.slow
@pytest.mark.traced
@pytest.mark.parametrize("commit", [0, 6])
def test_with_a_few_likeliest_tokens_the_posterior_is_exact_where_prompts_are_scored(
    grown, without, running, commit
):
    ensemble = replace(grown[0].ensemble, rule="bayes", commit=commit, top_k=2 if commit else 0)
    local = Catalog(replace(grown[0], ensemble=ensemble))
    far = remote(replace(without, ensemble=ensemble), f"{running.url}/v1", top=4)
    # Tokens that the remote does not list are written too: it is asked for their scores.
    with engine_of(far) as engine:
        found = answers(engine, requests_of(far, "forest:bayes", 12, temperature=1.0))
    with engine_of(local) as engine:
        for events in found:
            told = tokens_of(events)
            text = tuple(token.id for token in told)
            request = Request("forest:bayes", text, 0, posterior=True, score_prompt=True)
            exact = tokens_of(answers(engine, [request])[0])
            assert [token.id for token in exact] == list(text)
            for mine, theirs in zip(told, exact, strict=True):
                assert mine.posterior == pytest.approx(theirs.posterior, abs=1e-4)
                difference = abs(np.exp(mine.logp) - np.exp(theirs.logp))
                assert difference <= mine.bound + 1e-6
    assert any(0 < token.bound < 1 for events in found for token in tokens_of(events))


def test_the_rest_is_spread_within_its_bound():
    rng = np.random.default_rng(0)
    for size, top in ((50, 1), (50, 20), (1000, 5), (6, 6)):
        logp_V = np.log(rng.dirichlet(np.full(size, 0.3)) + 1e-12)
        logp_V -= np.logaddexp.reduce(logp_V)
        order = np.argsort(-logp_V)
        chosen = int(order[-1])  # told too, as it was in a prompt
        listed = [Named(f"token_id:{t}", float(logp_V[t]), int(t)) for t in (*order[:top], chosen)]
        known = Likeliest.of(listed, lambda named: named.id, top, size)
        spread_V, rest = known.spread(size)
        assert torch.logsumexp(spread_V, 0).item() == pytest.approx(0, abs=1e-4)
        if rest is None:
            assert size == top
            continue
        others = [t for t in range(size) if t not in rest.listed]
        assert rest.most >= logp_V[others].max() - 1e-9
        apart = 0.5 * np.abs(np.exp(spread_V.numpy()) - np.exp(logp_V)).sum()
        assert apart <= rest.mass + 1e-5


def test_tokens_that_share_a_text_are_part_of_the_rest():
    top = [Named("a", -1.0), Named("b", -2.0)]
    known = Likeliest.of(top, lambda named: {"a": 0}.get(named.text), 2, 10)
    assert list(known.logp) == [0]
    assert known.most == pytest.approx(np.log(1 - np.exp(-1.0)))  # b may be any other


BAD = {
    "no choices": {"error": "x"},
    "no logprobs": {"choices": [{"index": 0, "logprobs": None}]},
    "not of one length": {
        "choices": [
            {
                "index": 0,
                "logprobs": {"tokens": ["a"], "token_logprobs": [], "top_logprobs": []},
            }
        ]
    },
    "is no log-probability": {
        "choices": [
            {
                "index": 0,
                "logprobs": {"content": [{"token": "a", "logprob": 3.0, "top_logprobs": []}]},
            }
        ]
    },
    "1 answers to 1 prompts": {"choices": [{"index": 7, "logprobs": {"content": []}}]},
    "no index": {"choices": [{"logprobs": {"content": []}}]},
    "no object": {"choices": [{"index": 0, "logprobs": {"content": [7]}}]},
}


@pytest.mark.parametrize("why", BAD)
def test_an_answer_that_makes_no_sense_is_told_in_what(why):
    with pytest.raises(ValueError, match=why):
        choices_of(BAD[why], 1)


named = st.fixed_dictionaries(
    {},
    optional={
        "token": st.text(max_size=3) | st.none(),
        "id": st.integers() | st.booleans() | st.none(),
        "bytes": st.lists(st.integers(-1, 300), max_size=2) | st.none(),
        "logprob": st.floats() | st.integers() | st.none() | st.text(max_size=2),
    },
)
entries = st.lists(
    st.builds(lambda each, top: each | {"top_logprobs": top}, named, st.lists(named, max_size=3)),
    max_size=3,
)
legacy = st.fixed_dictionaries(
    {
        "tokens": st.lists(st.text(max_size=3), max_size=2),
        "token_logprobs": st.lists(st.floats() | st.none(), max_size=2),
        "top_logprobs": st.lists(
            st.dictionaries(st.text(max_size=12), st.floats(-9, 0.1), max_size=3) | st.none(),
            max_size=2,
        ),
    }
)
logprobs = st.none() | legacy | st.fixed_dictionaries({"content": entries | st.none()})


@settings(max_examples=100, deadline=None)
@given(logprobs)
def test_whatever_is_answered_is_a_distribution_or_an_error(answered):
    try:
        (found,) = choices_of({"choices": [{"index": 0, "logprobs": answered}]}, 1)
        for entry in found:
            known = Likeliest.of(entry.top, lambda each: each.id, 5, 50)
            logp_V, rest = known.spread(50)
            assert torch.logsumexp(logp_V, 0).item() < 0.02
            assert rest is None or 0 < rest.mass <= 1
    except ValueError:
        pass


@contextmanager
def strange(*replies):
    """A server of someone else's that gives these replies in turn, the last for ever; and the
    requests that came.
    """
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/v1/completions":
                self.send_error(404)
                return
            came.append(json.loads(body))
            status, headers, sent = replies[min(len(came), len(replies)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def told(*tokens):
    """The reply of a server without echo to two prompts, whose likeliest tokens are these."""
    top = [{"token": text, "id": token, "logprob": -2.0} for token, text in tokens]
    entry = {"token": "a", "logprob": -2.0, "top_logprobs": top}
    choices = [{"index": i, "logprobs": {"content": [entry]}} for i in range(2)]
    return 200, {}, json.dumps({"choices": choices}).encode()


STRANGE = {
    "302: a redirect, which is not followed": [(302, {"Location": "http://127.0.0.1:9/"}, b"")],
    "the answer is no JSON": [(200, {}, b"<html>")],
    "over [0-9,]+ bytes": [(200, {}, b" " * (3 << 20))],
    "503: starting": [(503, {"Retry-After": "0"}, b'{"error": {"message": "starting\\n"}}')],
    "400: no such model": [(400, {}, b'{"error": {"message": "no such model"}}')],
    "it tells no top log-probs": [told()],
    "another tokenizer": [told((5, "certainly no such token"), (6, "nor this"))],
}


@pytest.mark.parametrize("why", STRANGE)
def test_what_cannot_be_a_member_is_one_line_at_the_start(without, why):
    with strange(*STRANGE[why]) as (url, came):
        catalog = remote(without, url, retries=1, timeout=5)
        with pytest.raises(UserError, match=why) as error:
            catalog.remotes.connect()
    assert str(error.value).startswith(f"serve.remote.bible ({url}): ")
    assert "\n" not in str(error.value)
    assert came


def test_a_busy_server_is_asked_again(without):
    tokenizer = Catalog(without).tokenizer
    known = told(*((t, tokenizer.decode([t])) for t in (66, 67, 68)))
    busy = (429, {"Retry-After": "0"}, b"")
    with strange(busy, busy, known) as (url, came):
        remote(without, url, retries=2).remotes.connect()
        assert len(came) == 3
        assert came[0]["prompt"] == came[2]["prompt"]
        assert "Authorization" not in came[0]


def test_who_does_not_answer_is_named(without, monkeypatch):
    catalog = remote(without, CLOSED, retries=0)
    with pytest.raises(UserError, match=r"^serve\.remote\.bible \(http://127.0.0.1:9/v1\): no ans"):
        catalog.remotes.connect()
    with pytest.raises(LostError, match="no answer"):
        catalog.remotes.load(catalog.find("bible").members[0])
    monkeypatch.delenv("NO_KEY_HERE", raising=False)
    keyed = remote(without, CLOSED, key_env="NO_KEY_HERE")
    with pytest.raises(UserError, match="key_env=NO_KEY_HERE: that variable"):
        keyed.remotes.connect()


def test_a_key_is_sent_as_a_token(grown, without, serve, monkeypatch):
    monkeypatch.setenv("BIBLE_KEY", "0123456789abcdef0123")
    with serve(grown[0], "0123456789abcdef0123") as guarded:
        url = f"{guarded.url}/v1"
        with pytest.raises(UserError, match="401"):
            remote(without, url).remotes.connect()
        catalog = remote(without, url, key_env="BIBLE_KEY")
        catalog.remotes.connect()
        assert catalog.remotes.models()[0].context > 0


WRONG = {
    "wanted {NAME": {"law": 7},
    "no key 'uri'": {"law": {"uri": "http://h/v1", "model": "m"}},
    "serve.remote.law.model": {"law": {"url": "http://h/v1"}},
    "wanted http": {"law": {"url": "ftp://h/v1", "model": "m"}},
    "wanted no user": {"law": {"url": "http://me:word@h/v1", "model": "m"}},
    "no valid name": {"../law": {"url": "http://h/v1", "model": "m"}},
    "own name": {"forest": {"url": "http://h/v1", "model": "m"}},
    "law.top=0": {"law": {"url": "http://h/v1", "model": "m", "top": 0}},
    "law.timeout=x": {"law": {"url": "http://h/v1", "model": "m", "timeout": "x"}},
    "law.key_env": {"law": {"url": "http://h/v1", "model": "m", "key_env": "sk-secret"}},
}


@pytest.mark.parametrize("why", WRONG)
def test_a_setting_that_makes_no_sense_is_named(why):
    with pytest.raises(UserError, match=why) as error:
        check_serve(replace(Config().serve, remote=WRONG[why]))
    assert "sk-secret" not in str(error.value)


def test_a_name_that_the_forest_has_is_refused(grown):
    with pytest.raises(UserError, match="bible is a model of"):
        remote(grown[0], CLOSED)
    assert (
        remote_experts({"law": {"url": "http://h:8/v1/", "model": "m"}})[0].url == "http://h:8/v1"
    )


def test_a_prior_is_not_fitted_for_one(without):
    with pytest.raises(UserError, match="domain=novels: nothing is fitted for bible"):
        remote(replace(without, domain="novels"), CLOSED)


@pytest.mark.slow
def test_a_server_that_dies_mid_text_is_left_out_and_the_answer_says_so(grown, without, serve):
    words = [sys.executable, "-m", "btm.cli", "serve", f"forest={grown[0].forest_root}"]
    process = subprocess.Popen(
        [*words, "serve.port=0"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        found = (re.search(r"http://[0-9.:]+", line) for line in process.stdout)
        url = next(match[0] for match in found if match)
        served = {"bible": {"url": f"{url}/v1", "model": "bible", "retries": 1}}
        config = replace(without, serve=replace(without.serve, remote=served))
        with serve(config) as gateway, gateway.client() as client:
            stream = client.completions.create(
                model="forest",
                prompt="In the beginning",
                max_tokens=40,
                temperature=0,
                stream=True,
                extra_body={"btm_posterior": True, "btm_bound": True, "ignore_eos": True},
            )
            parts, members = [], []
            for part in stream:
                parts.append(part.model_dump())
                for choice in parts[-1]["choices"]:
                    members += [set(weights) for weights in choice["btm_posterior"]]
                if process.poll() is None and len(members) > 3:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            assert len(members) == 40
            assert members[0] == {"code_python", "speeches", "bible"}
            assert members[-1] == {"code_python", "speeches"}
            assert parts[-1]["btm_lost"] == ["bible"]
            assert parts[-1]["choices"][0]["finish_reason"] == "length"
            # The next answer begins without it, and a request for it alone is an error.
            body = {"prompt": "x", "max_tokens": 1, "btm_bound": True}
            status, _, found = gateway.ask("/v1/completions", body | {"model": "forest"})
            assert (status, found["btm_lost"]) == (200, ["bible"])
            assert found["choices"][0]["btm_bound"] == [0.0]
            status, _, found = gateway.ask("/v1/completions", body | {"model": "bible"})
            assert (status, found["error"]["code"]) == (500, "internal")
            assert gateway.idle()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.traced
def test_a_server_that_comes_back_is_a_member_again(grown, without, serve, monkeypatch):
    monkeypatch.setattr(loading, "_PATIENCE", 0.1)
    with serve(grown[0]) as first:
        catalog = remote(without, f"{first.url}/v1", retries=0)
        with engine_of(catalog) as engine:
            request = replace(requests_of(catalog)[0], max_tokens=2)
            assert answers(engine, [request])[0][-1].lost == ()
            first.server.should_exit = True
            while answers(engine, [request])[0][-1].lost != ("bible",):
                time.sleep(0.1)
            with serve(grown[0], port=first.port):
                until = time.monotonic() + 30
                while answers(engine, [request])[0][-1].lost and time.monotonic() < until:
                    time.sleep(0.1)
                assert answers(engine, [request])[0][-1].lost == ()


def test_a_dry_run_lists_it_and_asks_nobody(without, capsys):
    words = f"serve.remote={{bible: {{url: {CLOSED}, model: bible}}}}"
    assert main.main(["serve", f"forest={without.forest_root}", words, "--dry-run"]) == 0
    assert f"at {CLOSED}" in capsys.readouterr().out
