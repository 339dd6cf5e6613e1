"""What each verb of the command line does: call a step, then show what came of it."""

from collections.abc import Callable

from btm.cli.verbs import (
    commons,
    effects,
    growing,
    interop,
    jobs,
    looking,
    reading,
    reads,
    registry,
    serving,
    using,
)
from btm.cli.verbs.output import Output
from btm.config.schema import Config
from btm.errors import UserError

__all__ = ["VERBS", "Output", "check_baseline", "effects", "reads"]

VERBS: dict[str, Callable[[Config, Output], int | None]] = {
    "prepare": growing.prepare,
    "discover": growing.discover,
    "seed": growing.seed,
    "branch": growing.branch,
    "train": growing.train,
    "merge": growing.merge,
    "grow": growing.grow,
    "score": using.score,
    "eval": using.evaluate,
    "compare": using.compare,
    "bench": using.bench,
    "average": using.average,
    "mix": using.mix,
    "distil": using.distil,
    "moe": using.moe,
    "import": interop.import_model,
    "export": interop.export_model,
    "push": interop.push,
    "pull": interop.pull,
    "generate": using.generate,
    "serve": serving.serve,
    "read train": reading.train,
    "read eval": reading.evaluate,
    "read answer": reading.answer,
    "read compare": reading.compare,
    "read audit": reading.audit,
    "report": looking.report,
    "commons init": commons.init,
    "commons join": commons.join,
    "commons train": commons.train,
    "commons submit": commons.submit,
    "commons review": commons.review,
    "commons admit": commons.admit,
    "commons reject": commons.reject,
    "commons status": commons.status,
    "commons leave": commons.leave,
    "commons remove": commons.remove,
    "commons revoke": commons.revoke,
    "run": growing.run,
    "paper": growing.paper,
    "status": jobs.status,
    "watch": looking.watch,
    "logs": jobs.logs,
    "cancel": jobs.cancel,
    "ls": registry.ls,
    "show": registry.show,
    "verify": registry.verify,
    "lineage": registry.lineage,
    "diff": registry.diff,
    "remove": registry.remove,
    "gc": registry.gc,
    "doctor": jobs.doctor,
}


def check_baseline(verb: str, config: Config) -> None:
    """Raise `UserError` if `verb` cannot do its work for a baseline."""
    if config.baseline is not None and verb in reads.STEP_BY_STEP:
        raise UserError(
            f"btm {verb} knows no baseline: leave out baseline={config.baseline}, or use btm run, "
            "which grows it whole"
        )
    if config.baseline is not None and verb == "compare":
        raise UserError(
            "btm compare finds a forest's baselines by itself: leave out "
            f"baseline={config.baseline}"
        )
