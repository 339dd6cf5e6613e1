"""The command that installs an optional dependency, right for where btm runs.

The distribution is called `branch-train-merge`; `btm` on the package index is another project, so
no hint may name it. A clone is installed from its own folder, a wheel by the name.
"""

import os
import shutil
import sys
from pathlib import Path

DISTRIBUTION = "branch-train-merge"
_PACKAGE = Path(__file__).resolve().parents[1]


def install(extra: str, package: Path = _PACKAGE) -> str:
    """Return the shell command that installs btm's `extra` for this interpreter.

    `package` is the folder of the package `btm`. Beside a `pyproject.toml` it is a clone, which is
    installed in place: `.venv/bin/python -m pip install -e '.[parquet]'`.
    """
    clone = package.parent
    if (clone / "pyproject.toml").is_file():
        return f"{_pip()} install -e '{_short(clone)}[{extra}]'"
    return f"{_pip()} install '{DISTRIBUTION}[{extra}]'"


def _pip() -> str:
    """Return `pip` where the shell's is that of this interpreter, else `<python> -m pip`."""
    found = shutil.which("pip")
    if found and Path(found).absolute().parent == Path(sys.executable).parent:
        return "pip"
    return f"{_short(Path(sys.executable))} -m pip"


def _short(path: Path) -> str:
    """Return a path as it is typed here: relative below the working folder, else absolute."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
