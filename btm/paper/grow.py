"""The growing of one study, in a process that the pool has forked."""

import contextlib
import json
import os
import signal
import sys
import threading
import warnings
from itertools import product
from multiprocessing import parent_process
from pathlib import Path

from btm import steps
from btm.config.schema import Config
from btm.config.validation import from_dict
from btm.data.shards import Shard
from btm.errors import TrainingStoppedError, UserError
from btm.forest import Forest, paths, publish
from btm.forest.card import Card
from btm.forest.paths import ModelFolder, Paths
from btm.paper import one_model
from btm.paper.studies import FOREST, ONE_MODEL, SEED_PHASE
from btm.report import ConsoleReporter, Reporter
from btm.steps import baselines, domain_weights, score_cache
from btm.system import durable

AVERAGED = ("posterior", "token")  # ways to weigh the experts for a domain's average


class _Stoppable(ConsoleReporter):
    """Reports to a log; tells a training to save and stop once the process is asked to."""

    asked = False

    def pulse(self, step: int) -> bool:
        return self.asked


def in_process(file: str, log: str, threads: int) -> None:
    """Be the process of a study: what it says goes to a log, its exit code is that of `main`.

    It stops, and saves, once the pool is gone: nobody else would ever stop it.
    """
    import torch

    threading.Thread(target=_stop_without_pool, daemon=True).start()
    torch.set_num_threads(threads)
    with Path(log).open("a", buffering=1) as said:  # by line: the pool shows the last
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.exit(main(file))


def _stop_without_pool() -> None:
    pool = parent_process()
    assert pool is not None
    pool.join()
    os.kill(os.getpid(), signal.SIGTERM)


def main(file: str) -> int:
    """Grow the study of a spec; return 0, 2 for a mistake, 75 if it was asked to stop."""
    warnings.filterwarnings("ignore")
    spec = json.loads(Path(file).read_bytes())
    config = from_dict(spec["config"])
    reporter = _Stoppable(sys.stdout, every=10.0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda *_: setattr(reporter, "asked", True))
    try:
        if spec["copied"]:
            begin_with(Path(config.forest_root).parent / spec["copied"], Path(config.forest_root))
        if spec["kind"] == ONE_MODEL:
            one_model.make(config, reporter)
            return 0
        if spec["kind"] == SEED_PHASE:
            steps.seed(config, reporter)
            return 0
        baselines.run(baselines.ready(config, reporter), reporter)
        if spec["kind"] == FOREST:
            score_averages(config, reporter)
    except UserError as error:
        print(f"btm: {error}")
        return 2
    except TrainingStoppedError as error:
        print(error)
        return os.EX_TEMPFAIL
    return 0


def begin_with(source: Path, target: Path) -> None:
    """Make `target` a forest with the ELMs and scores of `source`.

    The files are hard links, since neither forest ever modifies them.
    """
    if target.exists():
        return
    with durable.publish_folder(target) as folder:
        for name in (paths.ELMS, paths.TOKENIZER, paths.SCORES, paths.TRAINED_ON):
            for file in sorted((source / name).rglob("*")):
                if file.is_file() and not any(part.startswith(".") for part in file.parts):
                    link = folder / file.relative_to(source)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.hardlink_to(file)
        Paths(folder).facts.write_bytes(Paths(source).facts.read_bytes())


def average_name(how: str, domain: str) -> str:
    """Name the average for a domain whose weights were found by `how`."""
    return f"{how}-{domain}"


def score_averages(config: Config, reporter: Reporter) -> None:
    """Average the experts uniformly and, for every evaluated domain, by `AVERAGED`; score each.

    An average for a domain is scored on that domain alone.
    """
    forest, suite = Forest(config.forest_root), steps.open_suite(config)
    experts = forest.experts()
    domains = config.eval.domains or suite.domains()
    shards = {domain: suite.shard(domain, config.eval.split) for domain in domains}
    uniform = publish.average(
        forest, "uniform", {elm.name: 1.0 for elm in experts}, method="uniform"
    )
    _score(config, forest, uniform, list(shards.values()), reporter)
    for how, (domain, shard) in product(AVERAGED, shards.items()):
        weights, _ = domain_weights.domain_weights(
            config, forest, suite, domain, experts, how, reporter
        )
        folder = publish.average(forest, average_name(how, domain), weights, method=how)
        _score(config, forest, folder, [shard], reporter)


def _score(
    config: Config, forest: Forest, folder: Path, shards: list[Shard], reporter: Reporter
) -> None:
    sha256 = Card.read(ModelFolder(folder).card).sha256
    score_cache.score_missing(config, forest, folder, sha256, shards, reporter)
