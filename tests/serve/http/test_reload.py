"""A forest that changes while it is served, and clients that send anything at all."""

import json
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btm.cli import main

ASKED = {"prompt": "In the beginning", "max_tokens": 2}


def status_of(running, name, wanted, seconds=20.0):
    """The status of a request for a model, once it is the wanted one or time is up."""
    until = time.monotonic() + seconds
    while True:
        status, _, found = running.ask("/v1/completions", ASKED | {"model": name})
        if status == wanted or time.monotonic() > until:
            return status, found
        time.sleep(0.05)


@pytest.mark.slow
def test_what_is_merged_is_served_and_what_is_removed_is_not(copy, serve, tmp_path, capsys):
    config = copy()
    elms = Path(config.forest_root) / "elms"
    aside = tmp_path / "speeches"
    elms.joinpath("speeches").rename(aside)
    root = f"forest={config.forest_root}"
    with serve(config, reload=0.1) as running:
        before = running.ask("/v1/models/forest")[2]
        assert before["btm"]["members"] == ["bible", "code_python"]
        assert running.ask("/v1/completions", ASKED | {"model": "speeches"})[0] == 404
        shutil.copytree(aside, elms / ".speeches")
        elms.joinpath(".speeches").rename(elms / "speeches")  # as a merge ends: by one rename
        assert status_of(running, "speeches", 200)[0] == 200
        after = running.ask("/v1/models/forest")[2]
        assert after["btm"]["members"] == ["bible", "code_python", "speeches"]
        assert after["btm"]["fingerprint"] != before["btm"]["fingerprint"]

        assert main.main(["remove", root, "expert=speeches"]) == 0, capsys.readouterr().err
        status, found = status_of(running, "speeches", 404)
        assert (status, found["error"]["code"]) == (404, "model_not_found")
        body = ASKED | {"model": "forest", "btm_posterior": True}
        _, _, answer = running.ask("/v1/completions", body)
        assert set(answer["choices"][0]["btm_posterior"][0]) == {"bible", "code_python"}


# Values that a client may send by mistake or on purpose, beside those that are right.
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["bible", "forest", "forest:tracking"]) | anything,
        "prompt": st.text(max_size=12) | st.lists(st.integers(-2, 600), max_size=5) | anything,
        "max_tokens": st.integers(0, 3) | anything,
        "temperature": st.floats(0, 2) | anything,
        "top_p": st.floats(0, 1) | anything,
        "top_k": st.integers(0, 600) | anything,
        "min_p": st.floats(0, 1) | anything,
        "n": st.integers(1, 3) | anything,
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3) | anything,
        "seed": st.integers() | anything,
        "logprobs": st.integers(0, 5) | anything,
        "echo": st.booleans() | anything,
        "stream": st.booleans() | anything,
        "logit_bias": st.dictionaries(
            st.integers(-1, 600).map(str), st.floats(-100, 100), max_size=3
        )
        | anything,
        "btm_posterior": st.booleans() | anything,
        "suffix": anything,
        "messages": anything,
        "add_special_tokens": anything,
        "tokens": st.lists(st.integers(-2, 600), max_size=5) | anything,
    },
)
PATHS = ["/v1/completions"] * 4 + ["/v1/chat/completions", "/tokenize", "/detokenize", "/v1/score"]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(PATHS), body=bodies | anything)
def test_no_request_makes_the_server_fail(running, path, body):
    status, _, found = running.ask(path, raw=json.dumps(body).encode())
    assert status < 500, (path, body, found)
    if status >= 400:
        assert set(found["error"]) == {"message", "type", "param", "code"}
    elif isinstance(body, dict) and body.get("stream"):
        assert b'"error"' not in found


def test_nothing_is_left_running(running):
    assert running.idle()
