"""Averages of model folders: at the speed of the disk, in memory that does not grow with them.

θ = Σ_j w_j θ_j with Σ_j w_j = 1 (BTM, section 2.3), and the other methods that make one model of
several (`average.method`). ``methods.py`` computes each tensor, ``stream.py`` reads and writes the
bytes, ``layout.py`` lays out the written files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from btm.models.average import layout, stream
from btm.models.average.methods import METHODS, check
from btm.models.average.models import Group, Models, require_same_tensors
from btm.models.average.settings import Settings
from btm.models.average.shares import normalise

__all__ = ["METHODS", "Models", "Settings", "average", "check", "normalise", "require_same_tensors"]


def average(
    sources: Mapping[Path, float],
    target: Path,
    alive: Callable[[], None] = lambda: None,
    settings: Settings = Settings(),  # noqa: B008 - it is frozen
) -> dict[str, str]:
    """Average the folders `sources` ({folder: weight}) into `target`; return each file's sha256.

    The bytes depend on the models, their weights and the settings alone: not on the order of
    `sources`, on threads or on the size of a read. Files, tensors and dtypes are those of the first
    source by path, unless the settings say otherwise; tensors of integers must agree. The caller
    publishes `target`; `alive` is called once a second.

    Raises `UserError` if the models differ in tensors or shapes, or do not suit the method.
    """
    check(settings, sources)
    models = Models(sources, settings)
    method = METHODS[settings.method]
    files = layout.plan(models.folders[0], settings.dtype, settings.shard_bytes)
    threads = settings.threads or stream.usual_threads(
        sum(e.size for file in files for e in file.entries)
    )
    with stream.Workers(threads, settings.accumulate, alive) as workers:
        recipes = {}
        if measure := method.measure:
            names = [tensor.name for tensor in models.first.values() if tensor.is_float]
            found = workers.map(
                lambda name, window: measure(models.group(name), settings, window), names
            )
            recipes = dict(zip(names, found, strict=True))

        def compute(group: Group, window: stream.Window, out: stream.Array) -> None:
            method.apply(group, settings, recipes.get(group.name), window, out)

        digests = {
            file.name: stream.write(file, models, compute, target / file.name, workers)
            for file in files
        }
    layout.write_index(files, models.folders[0], target)
    return digests
