"""Training of an ELM by fairseq: a child process trains it; btm feeds it, keeps its checkpoints,
takes the result back.

    model folder ─▶ checkpoint_best.pt ─fairseq-train─▶ checkpoint-<step>/fairseq.pt ─▶ model folder

What fairseq saves is moved out of its reach, synced and published like a checkpoint of btm's own,
so whoever asks how far a branch has come need not know who trains it. All else it writes lies in a
scratch folder.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from btm.config.schema import Config
from btm.config.training import FairseqConfig
from btm.data.batches import Batches
from btm.data.shards import Piece, Suite, require_text
from btm.errors import TrainingStoppedError, UserError
from btm.fairseq import checkpoint as theirs
from btm.fairseq import convert, from_hugging_face, indexed
from btm.fairseq import tokenizer as tokenizers
from btm.fairseq.architecture import Architecture
from btm.fairseq.families import understand
from btm.fairseq.state import Checkpoint
from btm.forest.paths import ModelFolder
from btm.models import causal_lm, configs, flops, weights
from btm.models.files import CONFIG
from btm.system import durable, lease
from btm.system.json_files import Json, read_object
from btm.train import checkpoint, loop, resume
from btm.train.fairseq import command, process
from btm.train.metrics import Metrics
from btm.train.training import Pulse, Trained, Training

FILE = "fairseq.pt"  # in a checkpoint's folder
LOG = "fairseq.log"  # in the branch's, while it is in the making
Reads = Callable[[Path], Checkpoint]
# of parameters and moments on disk at most: these, and three that fairseq has a hand in
_COPIES = 5


def check(config: Config, suite: Suite) -> None:
    """Raise `UserError`, before anything is begun, if trainer.backend=fairseq cannot train this
    model on this suite.
    """
    if config.trainer.backend != "fairseq":
        return
    command.interpreter(config.fairseq.python)
    command.extra_options(config.fairseq.options)
    if config.seed.source:
        model, where = (
            causal_lm.read_config(Path(config.seed.source) / CONFIG),
            config.seed.source,
        )
    else:
        model = configs.make_config(config.model, suite.vocab_size, suite.eos).to_dict()
        where = f"model={config.model.name}"
    convert.trainable(model, where)
    if suite.bos is not None:
        raise UserError(
            f"trainer.backend=fairseq: texts of the suite {suite.name!r} begin with a BOS, and "
            "fairseq's windows do not: prepare it with data.bos=never, or give trainer.backend=btm"
        )
    require_text(
        [suite.shard(domain, "train") for domain in suite.training_domains()],
        "trainer.backend=fairseq",
    )
    convert.fairseq_tokenizer(suite.tokenizer)


def train(training: Training, *, fairseq: FairseqConfig, legacy: bool = False) -> Trained:
    """Train the model in `training.folder` by fairseq, in place.

    Resumes from the newest checkpoint there that opens. Raises `TrainingFailedError` where
    the loss stops being finite or fairseq gives up, `ChildProcessError` if it was killed,
    `TrainingStoppedError` once `pulse` has asked it to stop, and `UserError` for a model that
    fairseq has not, or a checkpoint of other settings. `legacy` also takes checkpoints that hold
    more than tensors and plain values, as older fairseq writes them. fairseq validates nothing
    here and keeps its own moments, so `valid`, `moments` and `keep_moments` have no part in it.
    """
    folder, batches, trainer = training.folder, training.batches, training.trainer
    schedule, steps = training.schedule, training.steps
    model = convert.trainable(read_object(ModelFolder(folder).config, model_type=str), str(folder))
    if batches.growth.factor != 1:
        raise UserError("trainer.backend=fairseq: its steps cannot grow (seed.grow_batch)")
    python, device = command.interpreter(fairseq.python), causal_lm.pick_device(trainer.device)
    options = command.options(model, trainer, schedule, steps, device)
    options += command.extra_options(fairseq.options)
    settings = resume.settings_of(trainer, schedule, steps) | {
        "data": {shard.domain: shard.sha256[:16] for shard in batches.shards},
        "fairseq": fairseq.options,
    }
    reads = partial(_read, legacy=legacy)
    state = _begin(folder, settings, _environment(trainer.threads, device), reads)
    metrics = Metrics(
        ModelFolder(folder).metrics, state["step"], steps, trainer, batches.tokens, training.report
    )
    if state["step"] < steps:
        durable.require_space(folder, 3 * 4 * _COPIES * weights.parameters(folder))
        with _workspace(folder, batches, state["step"]) as (work, places):
            variables = command.environment(device, trainer.threads)
            child = process.Training(
                python, [str(work), *places, *options], variables, folder / LOG
            )
            with child:
                state = _follow(child, folder, state, metrics, training.pulse, reads)
            _require_end(child, folder, state, steps)
    metrics.close()
    _take_back(folder, reads(_place(folder, steps)), model)
    (folder / LOG).unlink(missing_ok=True)
    return _trained(training, state, options, metrics.last_loss)


def _trained(training: Training, state: Json, options: list[str], loss: float | None) -> Trained:
    """Return the result of a training that is done."""
    batches, versions = training.batches, state["environment"]
    tokens = batches.tokens(training.steps)
    shape = flops.Shape.of_config(causal_lm.load_config(training.folder))
    return Trained(
        steps=training.steps,
        tokens=tokens,
        flops=tokens * shape.training_flops(batches.seq_len),
        exact=state["exact"],
        notes=[*state["notes"], f"trained by fairseq {versions.get('fairseq')}"],
        backend="fairseq",
        fairseq=versions | {"arguments": options},
        loss=loss,
        trainer=asdict(training.trainer),
        schedule=asdict(training.schedule),
    )


def _environment(threads: int, device: str) -> Json:
    """Return the facts that numbers depend on, besides the versions that fairseq tells of."""
    import torch

    instructions = torch.backends.cpu.get_cpu_capability()
    return {"threads": threads, "instructions": instructions, "device": device.partition(":")[0]}


def _read(path: Path, *, legacy: bool) -> Checkpoint:
    with TemporaryDirectory(prefix=".tmp-legacy-", dir=path.parent) as scratch:
        return theirs.read(path, Path(scratch), legacy=legacy)


def _place(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` is."""
    return checkpoint.place(folder, step) / FILE


def _begin(folder: Path, settings: Json, environment: Json, reads: Reads) -> Json:
    """Return the state of the newest checkpoint that opens, at step 0 if there is none; damaged
    ones are deleted.
    """
    for found in reversed(ModelFolder(folder).checkpoints()):
        state = checkpoint.read_state(found)
        resume.require_same(found, state["settings"], settings)
        try:
            reads(found / FILE)
        except UserError as error:
            if "import.legacy=true" in str(error):
                raise  # it is not damaged
            durable.remove_folder(found)
            continue
        state["exact"] = (
            state["exact"] and not settings["fairseq"]
        )  # nobody knows what other options do
        return _in(state, environment)
    return {"step": 0, "settings": settings, "environment": environment, "exact": True, "notes": []}


def _in(state: Json, environment: Json) -> Json:
    """Return the state in an environment: that is noted where it is another than the training began
    with.
    """
    before = state["environment"]
    for key, value in environment.items():
        if before.get(key, value) != value:
            note = f"resumed at step {state['step']} with {key} {value}, begun with {before[key]}"
            state = state | {"exact": False, "notes": [*state["notes"], note]}
    return state | {"environment": before | environment}


@contextmanager
def _workspace(folder: Path, batches: Batches, step: int) -> Iterator[tuple[Path, list[str]]]:
    """Yield a scratch folder with data and dict.txt for fairseq, and the options that say where it
    begins and saves.
    """
    work = durable.scratch_folder(folder)
    try:
        _write_data(work, batches)
        if step:
            tokenizers.copy_dictionary(folder, work, convert.fairseq_tokenizer(folder))
            begin = f"--restore-file={_place(folder, step).absolute()}"
        else:
            from_hugging_face(folder, work)
            begin = f"--finetune-from-model={(work / convert.CHECKPOINT).absolute()}"
        yield work, [begin, f"--save-dir={work / 'save'}"]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_data(work: Path, batches: Batches) -> None:
    """Let fairseq see the shards as one stream, in which each has as many tokens as the largest, in
    whole steps.

    Windows begin where lines do only now and then: at such places fairseq shows the end of text,
    not the token before.
    """
    length, size = batches.seq_len, batches.batch_size
    most = max(shard.n_tokens for shard in batches.shards)
    unit = size // math.gcd(
        size, len(batches.shards)
    )  # windows of each shard in the fewest whole steps
    windows = -(-most // (length * unit)) * unit
    for number, shard in enumerate(batches.shards):
        begin = shard.begin if isinstance(shard, Piece) else 0
        source, prefix = shard.folder / f"{shard.split}.bin", work / f"train{number or ''}"
        dtype = shard.tokens.dtype.name
        indexed.link(prefix, source, dtype, begin, shard.n_tokens, windows * length, 4 * length + 1)


def _follow(
    child: process.Training,
    folder: Path,
    state: Json,
    metrics: Metrics,
    pulse: Pulse,
    reads: Reads,
) -> Json:
    """Watch a training to its end, keep what it saves, and return the state of the last
    checkpoint.
    """
    done = state["step"]
    for event in child.events():
        if isinstance(event, process.Update):
            done += 1
            if not (math.isfinite(event.loss) and math.isfinite(event.norm)):
                raise _failed(
                    folder, done, f"loss {event.loss}, gradient norm {event.norm}", nan=True
                )
            metrics.add(done, event.loss, event.lr, event.norm, None)
        elif isinstance(event, process.Saved):
            state = _keep(
                event, folder, state | {"environment": state["environment"] | child.versions}, reads
            )
        if pulse(done):
            child.stop()
    if child.process.returncode > 0:
        raise _failed(folder, done + 1, child.why(), nan="Nan/Inf" in child.why())
    return state


def _keep(saved: process.Saved, folder: Path, state: Json, reads: Reads) -> Json:
    """Publish what fairseq saved as a checkpoint, delete all before it but one, and return its
    state.
    """
    taken = saved.path.with_name("taken.pt")
    try:
        saved.path.rename(taken)
    except FileNotFoundError:
        return state  # a later one has replaced it already, and will be told of
    step = reads(taken).updates or saved.updates
    state = state | {"step": step}
    with suppress(FileExistsError), durable.publish_folder(_place(folder, step).parent) as scratch:
        taken.rename(scratch / FILE)
        checkpoint.write_state(scratch, state)
    checkpoint.prune(folder)
    return state


def _failed(folder: Path, step: int, found: str, *, nan: bool) -> loop.TrainingFailedError:
    """Return the error; the parameters that gave a NaN are no state to go on from."""
    if nan:
        checkpoint.drop(folder, step - 1)
    kept, name = checkpoint.latest(folder), lease.name_of(folder)
    home = folder.with_name(name)
    lower = f"; lower trainer.lr, delete {home} and branch again" if nan else ""
    return loop.TrainingFailedError(
        f"training of {name!r} by fairseq ended at step {step}: {found}; "
        f"last good state: {kept.name if kept else 'the branch itself'}; its log: "
        f"{home / LOG}{lower}"
    )


def _require_end(child: process.Training, folder: Path, state: Json, steps: int) -> None:
    """Raise what is due unless fairseq has ended because it was done."""
    step = state["step"]
    if step == steps:
        return
    if child.stopped:
        raise TrainingStoppedError(f"stopped after step {step}")
    if child.process.returncode:
        raise ChildProcessError(f"fairseq-train died at step {step} of {steps}: {child.why()}")
    raise UserError(
        f"training of {lease.name_of(folder)!r}: fairseq-train ended by itself after {step} of "
        f"{steps} updates: "
        "leave out the option in fairseq.options that has it stop early"
    )


def _take_back(folder: Path, found: Checkpoint, model: Architecture) -> None:
    """Replace the weights in `folder` by those of a checkpoint, in the dtype they had; all else
    stays.
    """
    import torch

    config, parameters = convert.as_transformers(found, model.vocab, folder / FILE)
    made, _ = understand(config, str(folder))
    if made != model:
        raise UserError(
            f"{folder}: fairseq trained another architecture, {made}, than the forest's, {model}"
        )
    loaded = causal_lm.load_trainable(folder, "cpu")
    with torch.no_grad():
        for name, parameter in checkpoint.parameters(loaded).items():
            parameter.copy_(parameters[name])
    causal_lm.write(folder, loaded, causal_lm.stored_dtype(folder))
