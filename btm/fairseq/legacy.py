"""Checkpoints of older fairseq, whose settings are an `argparse.Namespace` or omegaconf objects.

A separate process reads them, ``python -m btm.fairseq.legacy CHECKPOINT FOLDER``, under limits of
memory, time and disk, with torch's restricted reader. Each class that the file names and our list
allows is given a stand-in that keeps values and does nothing; any other name ends the reading. So
no code of the file, of fairseq or of omegaconf runs, and neither need be installed. The result is
safetensors and JSON.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btm.errors import UserError
from btm.system.json_files import read_object

if TYPE_CHECKING:
    from btm.fairseq.state import Checkpoint

MEMORY = 8 << 30  # bytes, and three times the file besides
SECONDS = 900  # limit of processor time, and of elapsed time
# Classes named by checkpoints of fairseq 0.6 to 1.0, all of which only hold values.
_HARMLESS = re.compile(
    r"argparse\.Namespace|typing\.(Any|Union|Optional|List|Dict|Tuple)"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.\w*Metadata|nodes\.\w+Node)"
    r"|fairseq\.(meters|logging\.meters)\.\w+Meter|fairseq\.dataclass\.(constants|configs)\.\w+"
    r"|fairseq\.(models|tasks|optim|criterions|data)\.[\w.]+Config"
    r"|collections\.(defaultdict|OrderedDict)"
    r"|dict|list|tuple|set|str|unicode|int|long|float|bool|object"
)
_BUILTINS = ("builtins.", "__builtin__.")  # torch's messages leave these out
_MISTAKE = 2  # the exit code when stderr explains the end in one line
_NAMES = 1000  # different names in a file; more is no checkpoint


class Kept:
    """A stand-in for any allowed class: it keeps the values that the file gives it."""

    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any) -> "Kept":
        """Keep the arguments."""
        kept = object.__new__(cls)
        kept.arguments, kept.state, kept.items = arguments, None, {}
        return kept

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


def read(path: Path, scratch: Path, memory: int = MEMORY) -> "Checkpoint":
    """Read a checkpoint in a child process, which leaves its tensors in `scratch`.

    Raises `UserError` if it is none, names other classes, or needs more than `memory` bytes and 3
    times the file.
    """
    from safetensors.torch import load_file

    from btm.fairseq.state import Checkpoint

    package = str(Path(__file__).parents[2])
    environment = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    environment |= {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
    places = [str(path.resolve()), str(scratch.resolve()), str(memory)]
    command = [sys.executable, "-m", "btm.fairseq.legacy", *places]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=scratch,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{path}: not read within {SECONDS} s; it is no checkpoint of fairseq"
        ) from None
    if done.returncode:
        last = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
        if done.returncode != _MISTAKE:
            last = f"its reader ended within its limits of memory and time: {last}"
        raise UserError(f"{path}: {last}")
    return Checkpoint(
        read_object(scratch / "settings.json"), load_file(scratch / "model.safetensors")
    )


def main(arguments: list[str]) -> int:
    """Convert a checkpoint to settings.json and model.safetensors.

    A user's mistake goes to stderr in one line, and the exit code is 2.
    """
    path, folder = map(Path, arguments[:2])
    _limit(path.stat().st_size, int(arguments[2]))
    from safetensors.torch import save_file

    from btm.fairseq.state import of_state

    try:
        found = of_state(_plain(_load(path)), "it")
        (folder / "settings.json").write_text(json.dumps(found.settings, default=str))
        save_file(
            {k: v.contiguous().clone() for k, v in found.parameters.items()},
            folder / "model.safetensors",
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return _MISTAKE
    return 0


def _limit(size: int, memory: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, memory + 3 * size),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, 2 * size + (1 << 20)),
        (resource.RLIMIT_CORE, 0),
    ):
        # A lower limit holds already, or the system has none of this kind.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def _load(path: Path) -> Any:
    """Load a checkpoint with stand-ins for the allowed classes that it names."""
    import pickle

    import torch

    stand_ins: dict[str, type] = {"argparse.Namespace": argparse.Namespace}
    for _ in range(_NAMES):
        classes: Any = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(classes):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
            if wanted is None or {wanted[1], _BUILTINS[0] + wanted[1]} & set(stand_ins):
                raise UserError(
                    "no checkpoint that torch reads: it is damaged or of another kind"
                ) from None
            if not _HARMLESS.fullmatch(wanted[1]):
                raise UserError(
                    f"names {wanted[1]}, which is no part of a checkpoint; it was not run"
                ) from None
            prefixes = ("",) if "." in wanted[1] else _BUILTINS
            stand_ins |= {prefix + wanted[1]: type("Kept", (Kept,), {}) for prefix in prefixes}
    raise UserError(f"names over {_NAMES} classes, which no checkpoint does")


def _plain(value: Any) -> Any:
    """Convert `value` to dicts, lists and plain values."""
    if isinstance(value, argparse.Namespace):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Kept):
        state = value.state if isinstance(value.state, dict) else {}
        for key in ("_content", "_val"):  # of omegaconf's containers and nodes
            if key in state:
                return _plain(state[key])
        if value.items:
            return _plain(value.items)
        return _plain(value.arguments[0]) if value.arguments else None
    return None if isinstance(value, type) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
