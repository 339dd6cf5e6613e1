"""What a training needs to go on: parameters, optimizer moments and the step, in one published
folder.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from btm.errors import UserError
from btm.forest.paths import ModelFolder
from btm.models import weights
from btm.models.causal_lm import DTYPES
from btm.system import durable
from btm.system.json_files import Json
from btm.train import optimizers
from btm.train.distributed import checkpoint as sharded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STATE = "state.json"
PARAMETERS = "parameters.safetensors"
MOMENTS = "optimizer.safetensors"
_MOMENTS = 2  # of AdamW; 32 bits each, or less
_OWN = "trainee.safetensors"
_DTYPES = {f"torch.{name}": short for short, name in DTYPES.items()}
_DTYPES |= {"torch.uint8": "U8", "torch.int32": "I32", "torch.int64": "I64", "torch.bool": "BOOL"}


class Writer:
    """Publishes checkpoints while the training goes on: all that is in one is copied, and written
    by a thread.

    The buffers it is copied into are used again, so a checkpoint stops the training for one copy in
    memory. Without `behind` it is written at once, from where it lies.
    """

    def __init__(self, *, behind: bool = True) -> None:
        self.behind = behind
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Wait for what is being written; its error counts if there is no other."""
        self._join()
        if kind is None:
            self.check()

    def save(
        self,
        folder: Path,
        model: "torch.nn.Module",
        optimizer: "torch.optim.Optimizer",
        state: Json,
        own: "dict[str, Tensor] | None" = None,
    ) -> None:
        """Publish ``folder/checkpoint-<step>``, with what is the trainee's `own`, once the one
        before it is written.
        """
        self.wait()
        files = {PARAMETERS: parameters(model), MOMENTS: moments(model, optimizer)}
        if own:
            files[_OWN] = own
        target, text = place(folder, state["step"]), _text(state)
        if not self.behind:
            _publish(target, files, text)
            return
        copied = {
            file: {name: self._copy(file, name, t) for name, t in ts.items()}
            for file, ts in files.items()
        }
        self._thread = threading.Thread(
            target=self._work, args=(target, copied, text), name=target.name
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong in the thread, if anything did."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Return when the last checkpoint stands; raises what went wrong with it."""
        self._join()
        self.check()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _copy(self, file: str, name: str, tensor: "Tensor") -> "Tensor":
        import torch

        buffer = self._buffers.get((file, name))
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = self._buffers[file, name] = torch.empty_like(tensor, device="cpu")
        return buffer.copy_(tensor)

    def _work(self, target: Path, files: "dict[str, dict[str, Tensor]]", text: str) -> None:
        try:
            _publish(target, files, text)
        except BaseException as error:
            self._error = error


def _publish(target: Path, files: "dict[str, dict[str, Tensor]]", text: str) -> None:
    """Publish a checkpoint, and delete all before it but the newest.

    One older checkpoint stays because the new one is proven good only by the step after it: see
    `drop`.
    """
    if not target.exists():
        with durable.publish_folder(target) as scratch:
            for name, tensors in files.items():
                _write(scratch / name, tensors)
            (scratch / STATE).write_text(text)
    prune(target.parent)


def _write(file: Path, tensors: "dict[str, Tensor]") -> None:
    """Write a safetensors file straight from the tensors' memory; while it is written other threads
    can run.

    The library's own writer keeps Python's lock until the last byte.
    """
    import torch

    entries: Json = {}
    end = 0
    # The largest elements first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    with file.open("wb") as handle:
        handle.write(weights.head(entries))
        for _, tensor in ordered:
            handle.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def place(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step stands."""
    return ModelFolder(folder).checkpoint(step)


def write_state(scratch: Path, state: Json) -> None:
    """Write into an unpublished checkpoint what `read_state` reads."""
    (scratch / STATE).write_text(_text(state))


def _text(state: Json) -> str:
    return json.dumps(state, indent=1, allow_nan=False)


def prune(folder: Path) -> None:
    """Delete all checkpoints but the newest two."""
    for older in ModelFolder(folder).checkpoints()[:-2]:
        durable.remove_folder(older)


def drop(folder: Path, step: int) -> None:
    """Delete the checkpoint of `step`, whose parameters gave a loss that is not finite, if there is
    one.
    """
    if (found := place(folder, step)).exists():
        durable.remove_folder(found)


def disk_bytes(model: "torch.nn.Module", copies: int = 0) -> int:
    """Compute the bytes that the checkpoints of a training take at most: two, and one that is being
    written. They hold so many `copies` of the parameters beside parameters and moments.
    """
    return (
        3 * (1 + _MOMENTS + copies) * sum(p.numel() * p.element_size() for p in model.parameters())
    )


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder`, or None."""
    return max(ModelFolder(folder).checkpoints(), default=None)


def read_state(checkpoint: Path) -> Json:
    """Return the state that `save` was given."""
    try:
        state = json.loads((checkpoint / STATE).read_bytes())
        for key, kind in {
            "step": int,
            "settings": dict,
            "environment": dict,
            "notes": list,
        }.items():
            if not isinstance(state[key], kind):
                raise TypeError(f"no {key}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{checkpoint}: not readable ({error}): {_remedy(checkpoint)}") from None
    return state


def load(checkpoint: Path, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> None:
    """Put the parameters and moments of `checkpoint` into `model` and `optimizer`."""
    import torch

    if sharded.stands(checkpoint):
        load_share(checkpoint, model, optimizer)
        return
    stored = _tensors(checkpoint / PARAMETERS, _remedy(checkpoint))
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            if name not in stored or stored[name].shape != parameter.shape:
                found = f"no tensor {name!r} of shape {list(parameter.shape)}"
                raise UserError(f"{checkpoint}: {found}: {_remedy(checkpoint)}")
            parameter.copy_(stored[name])
    load_moments(checkpoint / MOMENTS, model, optimizer, _remedy(checkpoint))


def load_share(
    folder: Path,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    *,
    moments_alone: bool = False,
    remedy: str = "",
) -> None:
    """Put parameters and moments from `folder` into `model` and `optimizer`, of DTensors the part
    that is here.

    `folder` may be the checkpoint of any number of processes, one too. Where there is a process
    group, all call this.
    """
    wanted = {} if moments_alone else parameters(model)
    states: dict[Tensor, dict[str, Tensor]] = {}
    try:
        stored = sharded.names(folder)
        for name, parameter in model.named_parameters():
            if f"step.{name}" in stored:
                blank = optimizers.blank_state(optimizer, parameter)
                states[parameter] = {
                    key: wanted.setdefault(_entry(key, name), blank[key]) for key in blank
                }
        if missing := sorted(wanted.keys() - stored):
            raise ValueError(f"no tensor {missing[0]!r}")
        sharded.read(folder, wanted)
    except (UserError, ValueError) as error:
        raise UserError(f"{folder}: {error}: {remedy or _remedy(folder)}") from None
    for owner, state in states.items():
        optimizer.state[owner] = {key: _counted(key, value) for key, value in state.items()}


def _counted(key: str, value: "Tensor") -> "Tensor | int":
    """Return an entry of a parameter's state as its optimizer has it: some count steps in an
    int.
    """
    return value if key != "step" or value.is_floating_point() else int(value)


def load_own(checkpoint: Path) -> "dict[str, Tensor]":
    """Return the trainee's own tensors that `save` was given."""
    return _tensors(checkpoint / _OWN, _remedy(checkpoint))


def parameters(model: "torch.nn.Module") -> "dict[str, Tensor]":
    """Return the parameters by name; a tied one appears once."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def moments(model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> "dict[str, Tensor]":
    """Return the optimizer's state by ``<entry>.<parameter>``; counts that are no tensors become
    tensors of int64.
    """
    import torch

    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[_entry(key, name)] = torch.as_tensor(value)
    return found


def save_moments(file: Path, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> None:
    """Publish the optimizer's moments as one file, for trainings that continue this one."""
    write_moments(file, moments(model, optimizer))


def write_moments(file: Path, tensors: "dict[str, Tensor]") -> None:
    """Publish what `moments` gave."""
    from safetensors.torch import save

    with durable.publish_file(file) as handle:
        handle.write(save(tensors))


def optimizer_of(file: Path) -> str:
    """Return the trainer.optimizer that left the moments in `file`; `UserError` if it is
    damaged.
    """
    quantised = any(tensor.name.startswith("state1.") for tensor in weights.header(file)[0])
    return "adamw8bit" if quantised else "adamw"


def load_moments(
    file: Path,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    remedy: str = "trainer.carry=fresh does without it",
    stored_name: Callable[[str], str] = str,
) -> None:
    """Put the moments that stand in `file` into `optimizer`, on each parameter's device.

    `stored_name` gives the name that a parameter's moments have in the file; several may share one.
    """
    stored = _tensors(file, remedy)
    for own_name, parameter in model.named_parameters():
        name = stored_name(own_name)
        if f"step.{name}" not in stored:
            continue
        place = optimizers.state_device(optimizer, parameter)
        state: Json = {}
        for key, (dtype, size) in optimizers.layout(optimizer, parameter).items():
            entry = _entry(key, name)
            value = stored.get(entry)
            if value is None or str(value.dtype) != f"torch.{dtype}" or value.numel() != size:
                found = "none" if value is None else f"{value.numel():,} of {value.dtype}"
                raise UserError(
                    f"{file}: its optimizer is another than trainer.optimizer and "
                    "trainer.embedding_bits say "
                    f"({key} of {name}: wanted {size:,} of {dtype}, found {found}): {remedy}"
                )
            own = entry == f"{key}.{name}" and name != own_name
            state[key] = int(value) if dtype == "int64" else value.to(place, copy=own)
            if entry == key:
                stored[entry] = state[key]  # one for all parameters, also where it had to be moved
        optimizer.state[parameter] = state


def _entry(key: str, name: str) -> str:
    """Return the name in a file of one entry of a parameter's state."""
    return key if key in optimizers.CODEBOOKS else f"{key}.{name}"


def damaged(checkpoint: Path, found: str) -> UserError:
    """Return the error for a checkpoint in which something is wrong."""
    return UserError(f"{checkpoint}: {found}: {_remedy(checkpoint)}")


def _remedy(checkpoint: Path) -> str:
    return f"delete {checkpoint.name} to go on from the one before it, or else from the start"


def _tensors(file: Path, remedy: str) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file; `UserError` with the `remedy` if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{file}: not readable ({error}): {remedy}") from None
