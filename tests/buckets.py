"""A real S3 server on loopback (scripts/s3_server), for the tests that need a bucket."""

import os
from importlib.util import find_spec

import pytest

from bench import seaweed


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory, request):
    """The server; a module's USERS, as scripts/commons_policy.py makes them, may use it too."""
    here = seaweed.PROGRAM.exists() and find_spec("s3fs") is not None
    if not here and not os.environ.get("CI"):
        pytest.skip("no S3 server or no s3fs here: scripts/s3_server, pip install s3fs")
    users = getattr(request.module, "USERS", ())
    with seaweed.serving(tmp_path_factory.mktemp("s3"), users=users) as running:
        yield running


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The server's credentials in the environment, and a client of our own to look at it; the
    bucket is empty again afterwards.
    """
    import s3fs

    for name, value in s3_server.credentials.items():
        monkeypatch.setenv(name, value)
    known = {"key": s3_server.access, "secret": s3_server.secret, "endpoint_url": s3_server.url}
    fs = s3fs.S3FileSystem(**known, skip_instance_cache=True, use_listings_cache=False)
    yield fs
    for found in fs.ls("bucket"):
        fs.rm(found, recursive=True)
