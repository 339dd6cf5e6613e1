"""Copies of the metrics in TensorBoard, W&B or MLflow; a mirror that fails is dropped, which is
said.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from btm.system.lease import name_of
from btm.system.notes import note

Log = Callable[[dict[str, float], int], None]


class Mirrors:
    """The mirrors named in trainer.mirrors, for one training in `folder`. metrics.jsonl stays the
    record.
    """

    def __init__(self, names: list[str], folder: Path) -> None:
        self.loggers: dict[str, tuple[Log, Callable[[], None]]] = {}
        for name in names:
            self._guard(name, partial(self._open, name, folder))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send the numbers among `values` to every mirror that still works."""
        numbers = {
            key: float(value) for key, value in values.items() if isinstance(value, int | float)
        }
        for name, (log, _) in list(self.loggers.items()):
            self._guard(name, partial(log, numbers, step))

    def close(self) -> None:
        """Flush and close every mirror."""
        for name, (_, close) in list(self.loggers.items()):
            self._guard(name, close)

    def _open(self, name: str, folder: Path) -> None:
        self.loggers[name] = _OPEN[name](folder)

    def _guard(self, name: str, action: Callable[[], Any]) -> None:
        # A training of days must outlive an expired token or a server that is away, whatever it
        # raises.
        try:
            action()
        except Exception as error:
            self.loggers.pop(name, None)
            note(
                f"{name} stopped mirroring: {type(error).__name__}: {error}; metrics.jsonl goes on"
            )


def _tensorboard(folder: Path) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard")

    def log(values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return log, writer.close


def _wandb(folder: Path) -> tuple[Log, Callable[[], None]]:
    import wandb

    run = wandb.init(project="btm", name=name_of(folder), dir=str(folder), resume="allow")
    return lambda values, step: run.log(values, step=step), run.finish


def _mlflow(folder: Path) -> tuple[Log, Callable[[], None]]:
    import mlflow

    mlflow.start_run(run_name=name_of(folder))
    return lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run


_OPEN: dict[str, Callable[[Path], tuple[Log, Callable[[], None]]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
