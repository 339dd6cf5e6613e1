"""Tokens, hosts, limits, and clients that hang up, do not read or do not send."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from btm.cli import main
from btm.config.serve import ServeConfig
from btm.errors import UserError
from btm.serve.http import access

TOKEN = "a-token-of-more-than-16-characters"
ASKED = {"model": "bible", "prompt": "In the beginning", "max_tokens": 2}
LONG = ASKED | {"max_tokens": 900, "ignore_eos": True}  # of 1,024 positions


@pytest.fixture(scope="module")
def strict(grown, serve):
    """A server with a token and small limits."""
    limits = {"running": 1, "waiting": 2, "max_body": 20_000, "patience": 1.0}
    with serve(grown[0], TOKEN, **limits) as found:
        yield found


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def dialled(running, body, *, headers=None, whole=True):
    """A connection that has sent a request, or all of it but the last byte."""
    content = json.dumps(body).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", f"Authorization: Bearer {TOKEN}", "", ""]
    found = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    found.sendall("\r\n".join(lines).encode() + (content if whole else content[:-1]))
    return found


def works(running):
    """Whether it runs a request."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if running.engine.counts().running:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é"},
    ],
)
def test_without_the_token_nothing_is_answered(strict, given):
    for path, body in [("/v1/completions", ASKED), ("/v1/models", None), ("/metrics", None)]:
        status, headers, found = strict.ask(path, body, headers=given)
        assert (status, found["error"]["code"]) == (401, "invalid_api_key")
        assert headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in str(found)
    assert strict.ask("/health", headers=given)[0] == 200


def test_with_the_token_it_is(strict):
    assert strict.ask("/v1/completions", ASKED, headers=BEARER)[0] == 200
    with strict.client(TOKEN) as client:
        assert client.completions.create(**ASKED).usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
    ],
)
def test_pages_of_other_sites_are_not_answered(running, headers, status):
    found, sent, body = running.ask("/v1/completions", ASKED, headers=headers)
    assert found == status
    assert not any(name.lower().startswith("access-control") for name in sent)
    assert status == 200 or set(body["error"]) == {"message", "type", "param", "code"}


def test_the_servers_own_page_is(running):
    assert running.ask("/v1/completions", ASKED, headers={"Origin": running.url})[0] == 200


def test_bodies_have_a_limit(strict):
    long = ASKED | {"prompt": "a" * 20_000}
    status, _, found = strict.ask("/v1/completions", long, headers=BEARER)
    assert (status, found["error"]["code"]) == (413, "request_too_large")

    def chunks():
        for _ in range(30):
            yield b" " * 1000

    with contextlib.suppress(ConnectionError):  # it may hang up before all is sent
        assert strict.ask("/v1/completions", raw=chunks(), headers=BEARER)[0] == 413


@pytest.mark.parametrize(
    ("method", "path", "raw", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "unknown_url"),
        ("GET", "/v1/completions", None, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/bible", None, 405, "method_not_allowed"),
        ("POST", "/v1/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/completions", b"", 400, None),
        ("POST", "/v1/completions", b"[]", 400, None),
        ("POST", "/v1/completions", b"\xff\xfe", 400, None),
        ("POST", "/v1/completions", b"[" * 100_000, 400, None),
        ("POST", "/v1/completions", b'{"model": "bible", "temperature": NaN}', 400, None),
        ("POST", "/v1/completions", b'{"model": "bible", "seed": 1e999}', 400, None),
        ("POST", "/v1/completions", b'{"model": "bible", "seed": ' + b"9" * 5000 + b"}", 400, None),
        ("POST", "/tokenize", b'{"prompt": "\\ud800"}', 400, None),
    ],
)
def test_errors_are_always_of_one_shape(running, method, path, raw, status, code):
    found, _, body = running.ask(path, method=method, raw=raw)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in str(body)
    assert code is None or body["error"]["code"] == code


def test_a_full_server_says_when_to_come_again(strict):
    with dialled(strict, LONG) as first:
        assert works(strict)
        with dialled(strict, LONG), dialled(strict, LONG):
            until = time.monotonic() + 20
            while strict.engine.counts().waiting < 2 and time.monotonic() < until:
                time.sleep(0.01)
            status, headers, found = strict.ask("/v1/completions", ASKED, headers=BEARER)
            assert (status, found["error"]["type"]) == (429, "rate_limit_error")
            assert int(headers["Retry-After"]) >= 1
        first.settimeout(0.1)
        with pytest.raises(TimeoutError):
            first.recv(1)
    assert strict.idle()
    many = ASKED | {"prompt": ["a"] * 3}
    status, _, found = strict.ask("/v1/completions", many, headers=BEARER)
    assert (status, found["error"]["code"]) == (400, "limit_exceeded")


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"stream": True, "n": 2}])
def test_a_client_that_hangs_up_frees_its_place(strict, more):
    with dialled(strict, LONG | more) as connection:
        assert works(strict)
        if more:
            assert connection.recv(100)
    assert strict.idle()
    assert "btm_clients_gone_total 0.0" not in strict.ask("/metrics", headers=BEARER)[2].decode()


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off(strict):
    wordy = LONG | {"stream": True, "logprobs": 20, "btm_posterior": True, "echo": True}
    wordy |= {"prompt": "In the beginning " * 8}
    with dialled(strict, wordy) as connection:
        assert works(strict)
        assert strict.idle(30)
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass


@pytest.mark.slow
def test_a_client_that_does_not_send_is_cut_off(strict):
    with dialled(strict, ASKED, whole=False) as connection:
        begun = time.monotonic()
        said = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert b"408" in said.splitlines()[0] and b'"code":"timeout"' in said
        assert time.monotonic() - begun < 10
    with socket.create_connection(("127.0.0.1", strict.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(100) == b""


def test_curl_is_answered(running):
    command = ["curl", "-sS", f"{running.url}/v1/completions", "-H"]
    command += ["Content-Type: application/json", "-d", json.dumps(ASKED | {"stream": True})]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith('data: {"id":"cmpl-') and said.endswith("data: [DONE]\n\n")


def test_the_token_comes_from_a_file_that_others_cannot_read(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    there = ServeConfig(host="0.0.0.0", token_file=str(file))
    assert access.token_of(there) == TOKEN
    access.require_token(there)
    access.require_token(ServeConfig(host="::1"))
    file.chmod(0o604)
    with pytest.raises(UserError, match="every user of this machine can read it; chmod"):
        access.token_of(there)
    file.chmod(0o600)
    for content in ("", "short", "two words of a token that is long", "x" * 5000, "é" * 20):
        file.write_text(content)
        with pytest.raises(UserError, match=r"serve\.token_file="):
            access.token_of(there)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match=r"serve\.token_file="):
            access.token_of(ServeConfig(token_file=str(missing)))
    monkeypatch.setenv(access.VARIABLE, TOKEN)
    assert access.token_of(ServeConfig()) == TOKEN
    with pytest.raises(UserError, match="is set too"):
        access.token_of(there)


def test_another_address_needs_a_token(grown, capsys):
    root = f"forest={grown[0].forest_root}"
    assert main.main(["serve", root, "serve.host=0.0.0.0", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no token: give serve.token_file=FILE" in line


def test_a_dry_run_shows_what_is_served_and_where(grown, capsys):
    assert main.main(["serve", f"forest={grown[0].forest_root}", "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "127.0.0.1:8000"
    assert {"forest", "forest:gated", "bible"} <= {row["name"] for row in rows}


def test_a_port_that_is_taken_is_said_in_a_line(grown, running, capsys):
    words = [f"forest={grown[0].forest_root}", f"serve.port={running.port}"]
    assert main.main(["serve", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"serve.port={running.port}: Address already in use" in line


def test_at_the_end_of_the_grace_clients_are_told_that_their_answer_is_broken_off(grown, serve):
    import openai

    refused = []
    with serve(grown[0], grace=0.2) as running, running.client() as client:
        ask = lambda: refused.append(running.ask("/v1/completions", LONG))  # noqa: E731
        whole = threading.Thread(target=ask)
        whole.start()
        extra = {"ignore_eos": True}
        with pytest.raises(openai.APIError) as told:
            for number, _ in enumerate(
                client.completions.create(
                    model="forest", prompt="", max_tokens=900, stream=True, extra_body=extra
                )
            ):
                if number == 2:
                    running.server.should_exit = True
        assert told.value.code == "stopping" and "broken off" in told.value.message
        whole.join()
    ((status, headers, body),) = refused
    assert status == 503 and body["error"]["code"] == "stopping" and headers["Retry-After"] == "5"


@pytest.mark.slow
@pytest.mark.traced
def test_the_command_serves_until_it_is_told_to_stop(grown):
    command = [sys.executable, "-m", "btm.cli", "serve", "--json", "serve.port=0"]
    command += [f"forest={grown[0].forest_root}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        said = b""
        while not said.rstrip().endswith(b"}"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        port = int(json.loads(said)["url"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in connection.recv(1000).splitlines()[0]
        process.terminate()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""
