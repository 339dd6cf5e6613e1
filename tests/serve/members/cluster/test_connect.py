"""`btm serve serve.engine=ray` begins a cluster of its own, which nobody else reaches."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from folders import uncovered

from btm.config.serve_ray import RayConfig
from btm.errors import UserError
from btm.serve.members.cluster.connect import is_here, require_token

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def below(process):
    """A process and all that it has started."""
    own = psutil.Process(process.pid)
    return [own, *own.children(recursive=True)]


def listening(processes):
    """The addresses at which processes listen."""
    found = set()
    for process in processes:
        try:
            connections = process.net_connections()
        except psutil.Error:  # it has ended meanwhile
            continue
        found |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def folders():
    """The folders of clusters that were begun here."""
    return set(Path("/tmp").glob("btm-ray-*"))


@pytest.mark.slow
def test_a_server_on_a_cluster_of_its_own(grown):
    before = folders()
    words = [f"forest={grown[0].forest_root}", "serve.engine=ray", "ensemble.experts=[bible]"]
    command = [sys.executable, "-m", "btm.cli", "serve", *words, "serve.port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=uncovered(), start_new_session=True
    ) as process:
        try:
            url = re.search(r"http://\S+?:\d+", process.stdout.readline())[0]
            body = {"model": "forest", "prompt": "In the", "max_tokens": 3, "temperature": 0}
            request = urllib.request.Request(
                f"{url}/v1/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=200) as answer:
                choice = json.load(answer)["choices"][0]
            assert choice["text"] and "btm_lost" not in choice
            started = below(process)
            assert len(started) > 3  # Ray's, and the replica
            assert listening(started) <= {*LOOPBACK}
            (folder,) = folders() - before
            assert folder.stat().st_mode & 0o077 == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0
            until = time.monotonic() + 60
            while any(p.is_running() for p in started) and time.monotonic() < until:
                time.sleep(0.1)
            assert not any(p.is_running() for p in started)
            left = [file for found in folders() - before for file in found.rglob("*")]
            assert not [file for file in left if not file.is_dir()]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("address", "here"),
    [(None, True), ("127.0.0.1:6379", True), ("10.1.2.3:6379", False), ("auto", False)],
)
def test_a_cluster_of_several_machines_needs_a_token(address, here, monkeypatch):
    chosen = RayConfig(address=address)
    assert is_here(chosen) is here
    require_token(chosen)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    if here:
        require_token(chosen)
    else:
        with pytest.raises(UserError, match="without a token runs what"):
            require_token(chosen)
