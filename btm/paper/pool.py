"""The pool of studies on this machine: a few at once, each in a process that can resume."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from btm.config.validation import from_dict
from btm.errors import UserError
from btm.models import causal_lm
from btm.paper import grow
from btm.paper.studies import Study
from btm.report import Reporter
from btm.report.progress import duration
from btm.steps.standing import Text
from btm.system import durable

# Forks of a process that has imported what a study needs, and has run none of it, start at once.
_FORKS = get_context("forkserver")
_LOOK_EVERY = 0.5  # seconds
_SAY_EVERY = 30.0  # seconds between lines of progress


class Pool:
    """Runs at most `slots` studies at once: on few cores that beats one study on all cores."""

    def __init__(
        self, folder: Path, slots: int, reporter: Reporter, text: Text | None = None
    ) -> None:
        """Keep specs, logs and marks of finished studies in `folder`; None is text that stays."""
        self.folder, self.slots, self.reporter = durable.make_folder(folder), slots, reporter
        self.text = text or {}
        self.running: dict[str, tuple[BaseProcess, float]] = {}
        self.said = time.monotonic()

    def grow(self, studies: Sequence[Study]) -> None:
        """Grow every unfinished study; after all have ended, `UserError` if one has failed."""
        done = {study.name for study in studies if self._stands(study)}
        if done:
            self.reporter.line(f"{len(done)} of {len(studies)} studies stand already")
        waiting = [study for study in studies if study.name not in done]
        failed: list[str] = []
        try:
            while self.running or any(done.issuperset(study.needs) for study in waiting):
                self._start(waiting, done)
                self._reap(done, failed)
                self._say(len(done), len(studies))
                time.sleep(_LOOK_EVERY)
        finally:
            self._stop()
        if failed:
            logs = ", ".join(str(self._file(name, "log")) for name in failed)
            raise UserError(
                f"{len(failed)} studies failed; their logs say why: {logs}; "
                "mend the cause and run this again"
            )

    def _start(self, waiting: list[Study], done: set[str]) -> None:
        for study in list(waiting):
            if len(self.running) >= self.slots:
                return
            if not done.issuperset(study.needs):
                continue
            waiting.remove(study)
            spec = self._file(study.name, "json")
            durable.write_json(spec, _spec(study) | {"text": self.text})
            self.running[study.name] = (self._process(spec, study), time.monotonic())
            self.reporter.line(f"{study.name}: started")

    def _process(self, spec: Path, study: Study) -> BaseProcess:
        architecture = str(study.config.model.config.get("model_type", "gpt2"))
        _FORKS.set_forkserver_preload([grow.__name__, causal_lm.modeling_module(architecture)])
        threads = max(1, (os.cpu_count() or 1) // self.slots)
        words = str(spec), str(self._file(study.name, "log")), threads
        process = _FORKS.Process(target=grow.in_process, args=words, name=study.name)
        process.start()
        return process

    def _reap(self, done: set[str], failed: list[str]) -> None:
        for name, (process, begun) in list(self.running.items()):
            code = process.exitcode
            if code is None:
                continue
            del self.running[name]
            spent = duration(time.monotonic() - begun)
            if code:
                failed.append(name)
                self.reporter.line(f"{name}: failed after {spent}: {self._last_line(name)}")
            else:
                lasted = {"seconds": round(time.monotonic() - begun, 1)}
                durable.write_json(self._file(name, "done"), lasted)
                done.add(name)
                self.reporter.line(f"{name}: done in {spent}")

    def _say(self, done: int, of: int) -> None:
        if time.monotonic() - self.said < _SAY_EVERY:
            return
        self.said = time.monotonic()
        for name in self.running:
            self.reporter.line(f"{done}/{of} done; {name}: {self._last_line(name)}")

    def _stop(self) -> None:
        """Tell running studies to save and end: the same command resumes them."""
        for process, _ in self.running.values():
            process.terminate()
        for process, _ in self.running.values():
            process.join()

    def _stands(self, study: Study) -> bool:
        """Tell whether a study was finished with exactly these settings, on exactly this text."""
        spec = self._file(study.name, "json")
        if not (spec.exists() and self._file(study.name, "done").exists()):
            return False
        stood = json.loads(spec.read_bytes())
        # As configurations, so that keys which an older spec lacks count as their defaults.
        same = from_dict(stood["config"]) == study.config
        of_text = not self.text or stood.get("text", self.text) == self.text  # older specs lack it
        return same and of_text and stood["copied"] == study.copied

    def _last_line(self, name: str) -> str:
        log = self._file(name, "log")  # which a process has not opened when it has just begun
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return lines[-1].strip() if lines else "begins"

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}.{ending}"


def _spec(study: Study) -> dict[str, object]:
    return {"config": asdict(study.config), "copied": study.copied, "kind": study.kind}
