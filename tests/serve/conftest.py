"""A real server on a real socket, over the forest that the tests share."""

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from btm.serve.catalog import Catalog
from btm.serve.engine import Engine
from btm.serve.limits import Limits


@dataclass
class Running:
    """A server that runs in a thread of the test's own process."""

    url: str
    engine: Engine
    server: object  # btm.serve.http.server.Server

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def client(self, token="none"):
        """The real client of OpenAI."""
        import openai  # a second of imports, which only its users wait for

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0, timeout=60)

    def ask(self, path, body=None, *, method=None, headers=None, raw=None):
        """Send one request; return its status, its headers and its JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = json.dumps(body) if raw is None else raw
        given = {"Content-Type": "application/json"} | (headers or {})
        try:
            has_body = body is not None or raw is not None
            method = method or ("POST" if has_body else "GET")
            connection.request(method, path, sent if has_body else None, given)
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status, answer.headers, json.loads(content) if is_json else content
        finally:
            connection.close()

    def idle(self, seconds=10.0):
        """Whether nothing runs or waits, some time soon."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            counts = self.engine.counts()
            if counts.running == counts.waiting == 0:
                return True
            time.sleep(0.02)
        return False


@contextmanager
def serving(config, token=None, port=0, load=None, **limits):
    """Serve a forest with some limits changed."""
    from btm.serve.http import server as http_server

    serve = replace(config.serve, port=0, **({"reload": 0} | limits))
    catalog = Catalog(config)
    catalog.remotes.connect()
    catalog.refresh()
    engine = Engine(catalog, Limits(serve.running, serve.waiting, serve.context), load)
    listening = http_server.bind("127.0.0.1", port)
    # Small buffers, which connections inherit, so that a client that does not read is soon noticed.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = http_server.make(serve, catalog, engine, token)
    engine.start()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(http_server.url_of(listening), engine, server)
    finally:
        server.should_exit = True
        thread.join()
        engine.close()


@pytest.fixture(scope="session")
def serve():
    """The function that serves a forest, for tests with limits or a forest of their own."""
    return serving


@pytest.fixture(scope="session")
def running(grown):
    """A server over the shared forest, for all tests that ask it ordinary things."""
    with serving(grown[0]) as found:
        yield found


@pytest.fixture(scope="session")
def client(running):
    with running.client() as found:
        yield found
