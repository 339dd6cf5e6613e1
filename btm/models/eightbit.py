"""bitsandbytes, imported where something of 8 bits is asked for (moments of AdamW, int8 linears),
and before peft imports it.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from btm.errors import UserError
from btm.system.extras import install


def bitsandbytes(key: str, instead: str) -> Any:
    """Import bitsandbytes for the setting `key`, as ``trainer.optimizer=adamw8bit``.

    Raises `UserError` where it is not installed, with what to install or to give `instead`.
    """
    try:
        return _safely_imported()
    except ImportError as error:
        raise UserError(
            f"{key} needs bitsandbytes ({error}): {install('int8')}, or use {instead}"
        ) from None


def import_first() -> None:
    """Import bitsandbytes, if it is installed, before another library (peft) imports it with
    `kernels`.
    """
    with suppress(ImportError):
        _safely_imported()


def _safely_imported() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # On CPUs that multiply bfloat16 it would have `kernels` fetch code from the Hub and run it.
    with _without("kernels"):
        import bitsandbytes
    return bitsandbytes


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Let `package` be one that cannot be imported."""
    absent = object()
    before: Any = sys.modules.get(package, absent)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[package]
        else:
            sys.modules[package] = before
