"""Join a Ray cluster, or begin one of this machine alone.

Whoever reaches the ports of a Ray cluster may run anything on its machines, unless it asks for a
token (``RAY_AUTH_MODE=token``). A cluster that is begun here listens on the loopback alone, and has
a token of its own; others are joined with a token, unless they are this machine's.
"""

import logging
import math
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btm.config.serve_ray import RayConfig
from btm.errors import UserError, first_line
from btm.system.extras import install

_MODE, _TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost")
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
_STORE = 256 << 20  # bytes of Ray's memory for large results, on this machine alone


@contextmanager
def connected(chosen: RayConfig, models: int) -> Iterator[None]:
    """Be part of a cluster; one of this machine alone has CPUs for so many models, whatever it has.

    Raises `UserError` where there is none at that address, or no token for it.
    """
    require_token(chosen)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(_MODE, "token")
    if is_here(chosen):
        # Ray would take the address of a network card instead of the loopback.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray, folder = _ray(), None
    try:
        if chosen.address is not None:
            _join(ray, chosen.address)
            yield
        else:
            # Ray's sockets and logs lie where other users of this machine have no access: Ray opens
            # its own folder to all. The path of a socket has 107 bytes at most; TMPDIR may be long.
            folder = tempfile.mkdtemp(prefix="btm-ray-", dir="/tmp")
            os.environ.setdefault(_TOKEN, secrets.token_hex(32))
            _begin(ray, max(1, math.ceil(models * chosen.cpus)), f"{folder}/ray")
            yield
    finally:
        ray.shutdown()
        if folder is not None:
            _remove(Path(folder))


def _remove(folder: Path) -> None:
    """Remove Ray's folder until it stays away: processes that are about to end make it anew."""
    away = 0
    for _ in range(50):
        away = 0 if folder.exists() else away + 1
        if away == 5:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, **_QUIET)
    except Exception as error:  # of connection, token, version, each a class of its own
        raise UserError(
            f"serve.ray.address={address}: no Ray cluster there, or one with another token: "
            f"{first_line(error)}"
        ) from None


def _begin(ray: Any, cpus: int, folder: str) -> None:
    """Begin a cluster of this machine alone. Ray gives itself 30 seconds, which may be too few on a
    busy machine: it is tried again.
    """
    for attempts_left in (2, 1, 0):
        try:
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_STORE,
                _node_ip_address=_LOOPBACK[0],
                _temp_dir=folder,
                **_QUIET,
            )
            return
        except Exception as error:
            ray.shutdown()
            if not attempts_left or "timed out" not in str(error):
                raise UserError(f"Ray did not start on this machine: {first_line(error)}") from None


def is_here(chosen: RayConfig) -> bool:
    """Whether the cluster is of this machine alone, as far as its address tells."""
    return chosen.address is None or chosen.address.rpartition(":")[0] in _LOOPBACK


def require_token(chosen: RayConfig) -> None:
    """Raise `UserError` for a cluster of several machines that asks for no token."""
    if os.environ.get(_MODE, "token") != "token" and not is_here(chosen):
        raise UserError(
            f"{_MODE}={os.environ[_MODE]}: whoever reaches a Ray cluster without a token runs what "
            f"they like on its machines: start all of it with {_MODE}=token (docs/serving.md)"
        )


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(f"serve.engine=ray needs Ray; run: {install('cluster')}") from None
    return ray
