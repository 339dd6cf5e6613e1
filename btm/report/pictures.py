"""Pictures are drawn for convenience: where one cannot be, that is said, and the numbers stand."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from btm.system import caches
from btm.system.notes import note


def attempt(draw: Callable[[], object], path: Path) -> bool:
    """Draw the picture at `path`; return whether it stands.

    Where that fails, for want of matplotlib, of a font or of disk, an older picture is deleted: it
    would show other numbers.
    """
    try:
        _prepare()
        draw()
    except Exception as error:  # of a library that reads fonts, settings and caches of its own
        with suppress(OSError):
            path.unlink(missing_ok=True)
        why = f"{type(error).__name__}: {error}"[:200]
        note(f"no picture {path}, the numbers stand: {why}")
        return False
    return True


def _prepare() -> None:
    """Give matplotlib a folder for its list of fonts where this user's home cannot be written."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "MPLCONFIGDIR" not in os.environ and not caches.is_home_writable():
        with suppress(OSError):
            os.environ["MPLCONFIGDIR"] = str(caches.folder("matplotlib"))
