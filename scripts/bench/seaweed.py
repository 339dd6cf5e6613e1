"""A real S3 server on loopback for tests and benchmarks: SeaweedFS, as scripts/s3_server puts it.

with serving(folder) as server:
    subprocess.run(["btm", "push", "to=s3://bucket/forest"], env=server.environment)
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from btm.system.json_files import Json

PROGRAM = Path(__file__).resolve().parents[2] / ".s3-server/bin/weed"
BUCKET = "bucket"
_PATIENCE = 60.0  # seconds for the server to come up; it takes two


@dataclass
class Server:
    """One server, its data in `folder`; it can be killed and started again on the same ports."""

    folder: Path
    access: str = field(default_factory=lambda: secrets.token_hex(8))
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    ports: list[int] = field(default_factory=lambda: free_ports(8))
    host: str = "127.0.0.1"  # where it listens
    users: list[Json] = field(default_factory=list)  # as commons_policy.py has them
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.ports[0]}"

    @property
    def credentials(self) -> dict[str, str]:
        """The variables by which client libraries of S3 find it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def credentials_of(self, name: str) -> dict[str, str]:
        """The variables by which client libraries of S3 become a user with a policy."""
        return self.credentials | {
            "AWS_ACCESS_KEY_ID": name,
            "AWS_SECRET_ACCESS_KEY": f"{self.secret}-{name}",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a program that uses it."""
        return os.environ | self.credentials

    def start(self) -> None:
        """Start it, and wait until it answers."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(self._config()))
        names = ["s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc"]
        names += ["filer", "filer.port.grpc"]
        ports = [
            f"-{name if name.endswith('grpc') else name + '.port'}={port}"
            for name, port in zip(names, self.ports, strict=True)
        ]
        words = [f"-dir={data}", f"-ip={self.host}", f"-ip.bind={self.host}", *ports]
        # It would report its version to its makers; buckets are made by those who want them.
        words += ["-master.telemetry=false", "-s3.autoCreateBucket=false", "-iam=false"]
        words += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        words += ["-volume.max=64", "-master.volumeSizeLimitMB=1024", "-s3", f"-s3.config={config}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "server", *words], stdout=log, stderr=log, cwd=self.folder
            )
        self._wait()

    def _config(self) -> Json:
        """List the users of the server: one who may do everything, and those with policies."""
        key = {"accessKey": self.access, "secretKey": self.secret}
        actions = ["Admin", "Read", "Write", "List"]
        known = [{"name": "tests", "credentials": [key], "actions": actions}]
        policies = []
        for user in self.users:
            policies += user["policies"]
            for each in user["identities"]:
                secret = self.credentials_of(each["name"])["AWS_SECRET_ACCESS_KEY"]
                known.append(
                    each | {"credentials": [{"accessKey": each["name"], "secretKey": secret}]}
                )
        return {"identities": known, "policies": policies}

    def _wait(self) -> None:
        """Wait until the gateway answers, and the volumes behind it take an object."""
        begun = time.monotonic()
        while time.monotonic() - begun < _PATIENCE:
            with suppress(OSError):
                try:
                    urllib.request.urlopen(self.url, timeout=1)
                    return
                except urllib.error.HTTPError:
                    return  # it answers that it wants credentials
            time.sleep(0.05)
        raise TimeoutError(f"no S3 server at {self.url}: {self.folder / 'log'}")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def make_bucket(self) -> None:
        """Make `BUCKET`."""
        import s3fs

        fs = s3fs.S3FileSystem(
            key=self.access, secret=self.secret, endpoint_url=self.url, skip_instance_cache=True
        )
        fs.mkdir(BUCKET)
        # The first object makes the server grow its volumes, which takes it a second.
        fs.pipe_file(f"{BUCKET}/ready", b"yes")


@contextmanager
def serving(folder: Path, host: str = "127.0.0.1", users: Sequence[Json] = ()) -> Iterator[Server]:
    """Run a server with an empty bucket `BUCKET` while the block runs."""
    server = Server(folder, host=host, users=list(users))
    try:
        server.start()
        server.make_bucket()
        yield server
    finally:
        server.kill()


def free_ports(count: int) -> list[int]:
    """Find ports on loopback that nobody listens on."""
    with_all = [socket.socket() for _ in range(count)]
    try:
        for each in with_all:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in with_all]
    finally:
        for each in with_all:
            each.close()
