"""The layers of a model compiled by torch, where that pays back within the training.

One graph serves all layers of a model, and torch keeps it on disk, so all experts of a forest share
it.
"""

import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from btm.errors import UserError, first_line
from btm.models import causal_lm
from btm.system import caches
from btm.system.notes import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COST = 45.0  # seconds that compiling is taken to cost
SAVED = 0.08  # of a step, about, where compiling helps on a CPU (docs/performance.md)
_TIMED = 3  # steps


class Layers:
    """The layers of a model in a training, and whether they are compiled.

    With `how` = ``auto`` that is decided by the clock: once three steps have shown that what is
    left would take long enough, the layers are compiled, and stay so if three more steps are
    faster. So a training repeats another bit for bit only with ``always`` or ``never``; what was
    decided is kept in its checkpoints as `state`, None meaning open.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        how: str,
        left: int,
        state: bool | None,
        trial: Callable[[], object],
    ) -> None:
        """`left` steps are to come; `trial` runs a step forward and backward, and may leave
        gradients.

        Raises `UserError` if the layers are always to be compiled and cannot be.
        """
        self.model, self.how, self.left, self.trial = model, how, left, trial
        self.layers = causal_lm.decoder_layers(model)
        self.state: bool | None = {"always": True, "never": False}.get(how, state)
        self._eager: list[float] = []
        self._compiled: list[float] = []
        self._begun = 0.0
        self.note = ""
        if not self.layers or (self.state is None and not possible(model)):
            self.state = False
        if self.state and left and not self._compile():
            if how == "always":
                raise UserError(
                    f"trainer.compile=always: {self.note}; trainer.compile=never does without"
                )
            self.state = False  # it was begun where they could be

    @property
    def notes(self) -> list[str]:
        """Say for a card that the layers are compiled, or why they could not be."""
        return (
            ["its layers were compiled by torch"]
            if self.state
            else [self.note]
            if self.note
            else []
        )

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step, and decide with it, if that is open."""
        if self.state is None:
            self._begun = self._now()
        yield
        self.left -= 1
        if self.state is None:
            self._decide(self._now() - self._begun)

    def _now(self) -> float:
        """Return the time once the device has done all it was given: on a GPU work is queued."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.monotonic()

    def _decide(self, seconds: float) -> None:
        if not self._is_on:
            self._eager.append(seconds)
            if len(self._eager) > _TIMED:  # the first one warms up
                usual = statistics.median(self._eager[1:])
                if self.left * usual * SAVED < COST or not self._compile():
                    self.state = False
            return
        self._compiled.append(seconds)
        if len(self._compiled) == _TIMED:
            self.state = statistics.median(self._compiled) < statistics.median(self._eager[1:])
            if not self.state:
                self.stop()

    @property
    def _is_on(self) -> bool:
        return bool(self.layers) and "forward" in vars(self.layers[0])

    def _compile(self) -> bool:
        """Compile the layers and try a step; if that fails, keep them as they were and tell why in
        `note`.
        """
        try:
            _prepare()
            with warnings.catch_warnings(
                action="ignore"
            ):  # of torch's compiler about its own insides
                for layer in self.layers:
                    layer.forward = torch.compile(layer.forward, dynamic=False)
                self.trial()
            _forgive()
            if not caches.is_home_writable():
                place = os.environ["TORCHINDUCTOR_CACHE_DIR"]
                note(f"the folder of caches cannot be written: compiled layers stand in {place}")
        except Exception as error:  # torch's compiler fails in many ways, and C++ compilers in more
            self.stop()
            why = first_line(error)
            self.note = f"torch cannot compile this model here ({why})"
            if self.how != "always":
                note(f"{self.note}; its layers are not compiled, which costs time alone")
        self.model.zero_grad(set_to_none=True)
        return self._is_on

    def stop(self) -> None:
        """Let the layers be as they were."""
        for layer in self.layers:
            vars(layer).pop("forward", None)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Let the layers be as they were for a while: another shape would be compiled anew."""
        kept = [vars(layer).pop("forward", None) for layer in self.layers]
        yield
        for layer, forward in zip(self.layers, kept, strict=True):
            if forward is not None:
                layer.forward = forward


def possible(model: "PreTrainedModel") -> bool:
    """Tell whether compiling may be tried: on CPUs it needs a C++ compiler. It was never run on a
    GPU.
    """
    if model.device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return model.device.type == "cuda"


def _prepare() -> None:
    """Have torch keep its graphs in a folder that nobody else can write to, and compile in this
    process.
    """
    caches.prepare()
    with warnings.catch_warnings(action="ignore"):
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

    inductor.compile_threads = 1
    dynamo.suppress_errors = False  # the trial must hear of them


def _forgive() -> None:
    """Let what cannot be compiled after the trial, such as another shape, run as it is."""
    import torch._dynamo.config as dynamo

    dynamo.suppress_errors = True
