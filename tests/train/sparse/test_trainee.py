"""A sparse expert: its budget at every step, its mask over a resume, and the file that makes it
again, bit for bit.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from folders import ROOT

from btm import steps
from btm.cli.compose import compose
from btm.config.training import ModelConfig
from btm.data.batches import Batches
from btm.errors import UserError
from btm.forest import Forest, delta
from btm.interop import formats
from btm.models import causal_lm, configs, weights
from btm.system import sums
from btm.train import checkpoint, loop, schedule
from btm.train.sparse import trainee as sparse_training
from btm.train.training import Training

SPARSE = ("trainer.delta_density=0.05", "trainer.delta_every=2")


def branch_of(config, name, **how):
    return steps.branch(config, name, "bible", **how).path


def batches_of(config):
    t = config.trainer
    return Batches(
        [steps.open_suite(config).shard("bible", "train")], t.seq_len, t.batch_size, t.seed
    )


def run(config, folder, n=8, pulse=lambda step: False, trainee=None, **changes):
    trainer = replace(config.trainer, **changes)
    plan = schedule.Schedule.of(trainer, horizon=n)
    training = Training(folder, batches_of(config), trainer, plan, n, pulse=pulse)
    return sparse_training.train(training) if trainee is None else loop.loop(training, trainee)


def stop_at(step):
    return lambda done: done == step


@pytest.mark.parametrize("mask", ["momentum", "normalised", "random"])
def test_the_budget_is_exact_at_every_step(copy, mask):
    config = copy("branch=copy", *SPARSE, f"trainer.delta_mask={mask}")
    made = branch_of(config, "new")
    model = causal_lm.load_trainable(made, "cpu")
    trainee = sparse_training.SparseTrainee(model, batches_of(config), made, config.trainer, 8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = {name: m.clone() for name, m in trainee.masks.items()}
    vectors = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    assert trainee.budget == round(0.05 * sum(p.numel() for p in model.parameters()))
    differing = []

    def pulse(done):
        assert sum(int(m.sum()) for m in trainee.masks.values()) + vectors == trainee.budget
        differs = {name: p.detach() != before[name] for name, p in model.named_parameters()}
        assert all(not (differs[name] & ~m).any() for name, m in trainee.masks.items())
        differing.append(sum(int(d.sum()) for d in differs.values()))
        return False

    result = run(config, made, trainee=trainee, pulse=pulse)
    assert result.steps == len(differing) == 8
    assert max(differing) <= trainee.budget
    assert differing[0] > 0.5 * trainee.budget
    moved = any(not torch.equal(first[name], m) for name, m in trainee.masks.items())
    assert moved == (mask != "random")


@pytest.mark.parametrize("stops", [[3], [1, 4, 7]])
def test_a_resumed_training_is_the_unbroken_one_bit_for_bit(copy, stops):
    config = copy("branch=copy", *SPARSE)
    broken, whole = branch_of(config, "broken"), branch_of(config, "whole")
    run(config, whole)
    for stop in stops:
        with pytest.raises(loop.TrainingStoppedError):
            run(config, broken, pulse=stop_at(stop))
    result = run(config, broken)
    assert result.exact
    last = "checkpoint-00000008"
    for name in (
        "model.safetensors",
        delta.FILE,
        f"{last}/trainee.safetensors",
        f"{last}/optimizer.safetensors",
    ):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    # A kill between the weights and trained.json: what stands in the folder is no branch point any
    # more.
    before = (whole / "model.safetensors").read_bytes()
    assert run(config, whole).delta == result.delta
    assert (whole / "model.safetensors").read_bytes() == before


def test_another_mask_does_not_resume(copy):
    config = copy("branch=copy", *SPARSE)
    made = branch_of(config, "new")
    with pytest.raises(loop.TrainingStoppedError):
        run(config, made, pulse=stop_at(3))
    with pytest.raises(UserError, match=r"other settings \(delta_density was 0.05, now 0.1\)"):
        run(config, made, delta_density=0.1)
    with pytest.raises(UserError, match=r"other settings \(delta_mask was momentum, now random\)"):
        run(config, made, delta_mask="random")
    plan = schedule.Schedule.of(config.trainer, horizon=8)
    dense = replace(config.trainer, delta_density=1.0)
    with pytest.raises(UserError, match=r"other settings \(delta_density was 0.05, now 1\)"):
        loop.train(Training(made, batches_of(config), dense, plan, 8))


def test_a_dense_checkpoint_of_before_these_settings_resumes(copy):
    config = copy("branch=copy", "trainer.checkpoint_every=2")
    made = branch_of(config, "new")
    plan = schedule.Schedule.of(config.trainer, horizon=4)
    with pytest.raises(loop.TrainingStoppedError):
        loop.train(Training(made, batches_of(config), config.trainer, plan, 4, pulse=stop_at(2)))
    file = checkpoint.latest(made) / "state.json"
    state = json.loads(file.read_text())
    kept = {k: v for k, v in state["settings"].items() if not k.startswith("delta_")}
    file.write_text(json.dumps(state | {"settings": kept}))
    assert loop.train(Training(made, batches_of(config), config.trainer, plan, 4)).exact


@pytest.mark.parametrize("content", [None, b"x" * 50])
def test_a_damaged_mask_is_named_with_what_to_do(copy, content):
    config = copy("branch=copy", *SPARSE, "trainer.checkpoint_every=2")
    made = branch_of(config, "new")
    run(config, made)
    found = checkpoint.latest(made)
    (found / "trainee.safetensors").unlink()
    if content is not None:
        (found / "trainee.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"delete {found.name} to go on"):
        run(config, made)


def test_a_mask_of_another_model_is_refused(copy):
    from safetensors.torch import load_file, save_file

    config = copy("branch=copy", *SPARSE)
    made = branch_of(config, "new")
    run(config, made)
    file = checkpoint.latest(made) / "trainee.safetensors"
    kept = load_file(file)
    name = next(name for name in kept if name.startswith("index."))
    for wrong in (kept[name] + 10**9, kept[name][:-1], kept[name].float()):
        save_file(kept | {name: wrong.contiguous()}, file)
        with pytest.raises(UserError, match=r"no mask of '.*': delete checkpoint"):
            run(config, made)


def test_without_its_checkpoint_a_written_branch_is_no_branch_point(copy):
    config = copy("branch=copy", *SPARSE)
    made = branch_of(config, "new")
    run(config, made)
    for found in made.glob("checkpoint-*"):
        shutil.rmtree(found)
    with pytest.raises(UserError, match="'new' was trained, but its checkpoint is gone"):
        run(config, made)


def test_the_elm_is_its_parents_and_its_delta(copy, tmp_path):
    config = copy(
        "weights={bible: 2, code_python: 1}", *SPARSE, "trainer.steps=6", "merge.force=true"
    )
    forest = Forest(config.forest_root)
    other = shutil.copytree(forest.root, tmp_path / "other")
    begin = steps.branch(config, "new", "speeches").path
    start = {name: np.array(t.raw()) for name, t in weights.tensors(begin).items()}
    steps.train(config, "new")
    elm = steps.merge(config, "new")
    said = elm.card.delta
    total = sum(len(values) for values in start.values())
    differ = sum(
        int((np.asarray(t.raw()) != start[n]).sum()) for n, t in weights.tensors(elm.path).items()
    )
    assert said["budget"] == round(0.05 * total)
    assert 0 < differ <= said["nonzeros"] <= said["budget"]
    assert "differs from its parents in" in (elm.path / "README.md").read_text()
    size = (elm.path / delta.FILE).stat().st_size
    assert size == said["bytes"]

    config.expert, config.format, config.to = "new", "delta", str(tmp_path / "shipped")
    target, _ = formats.export_model(config)
    docs = f"{elm.card.data['speeches']}.docs"  # the digests of what it was trained on
    assert {p.name for p in target.iterdir()} == {delta.FILE, "card.json", "SHA256SUMS", docs}
    with pytest.raises(UserError, match="stands there already"):
        formats.export_model(config)

    there = compose([f"forest={other}", f"from={target}", "format=delta", "name=came"])
    came = formats.import_model(there)
    assert (came.path / "model.safetensors").read_bytes() == (
        elm.path / "model.safetensors"
    ).read_bytes()
    assert (came.path / delta.FILE).read_bytes() == (elm.path / delta.FILE).read_bytes()
    for same in (
        "domains",
        "sha256",
        "parents",
        "ancestors",
        "tokens",
        "total_tokens",
        "data",
        "delta",
    ):
        assert getattr(came.card, same) == getattr(elm.card, same), same
    assert came.card.valid_nats is None  # the sender's word is none: nobody has measured here
    assert "not measured here" in came.card.notes[-1]
    assert formats.import_model(there).card == came.card

    config.expert, config.to = "bible", str(tmp_path / "dense")
    with pytest.raises(UserError, match="'bible' was not trained as a sparse expert"):
        formats.export_model(config)


def shipped(config, tmp_path):
    """A sparse expert's delta, and a forest of its parents without it."""
    other = shutil.copytree(config.forest_root, tmp_path / "other")
    steps.branch(config, "new", "bible")
    steps.train(config, "new")
    steps.merge(config, "new")
    config.expert, config.format, config.to = "new", "delta", str(tmp_path / "shipped")
    target, _ = formats.export_model(config)
    return target, compose([f"forest={other}", f"from={target}", "format=delta"])


def test_what_cannot_be_made_again_is_refused_and_leaves_nothing(copy, tmp_path):
    config = copy("branch=copy", "parent=bible", *SPARSE, "trainer.steps=3", "merge.force=true")
    target, there = shipped(config, tmp_path)
    before = sorted(p.name for p in Path(there.forest_root).rglob("*"))

    def refused(match, sealed=True):
        if sealed:
            sums.write(target)
        with pytest.raises(UserError, match=match):
            formats.import_model(there)
        assert sorted(p.name for p in Path(there.forest_root).rglob("*")) == before

    whole = (target / delta.FILE).read_bytes()
    (target / delta.FILE).write_bytes(whole[:-9])
    refused("truncated")
    (target / delta.FILE).write_bytes(whole)
    made = delta.read(target / delta.FILE)
    name, (at, change) = next(iter(made.tensors.items()))
    delta.write(
        target / delta.FILE,
        replace(made, tensors=made.tensors | {name: (at, change * np.float16(2))}),
    )
    refused("it is damaged")
    delta.write(target / delta.FILE, replace(made, sha256="0" * 64))
    refused("its card is not that of its delta.safetensors")
    (target / delta.FILE).write_bytes(whole)
    card = json.loads((target / "card.json").read_text())
    (target / "card.json").write_text("{}")
    refused("card")
    (target / "card.json").write_text(json.dumps(card | {"tokens": 1}))
    refused("card.json: its sha256 is another", sealed=False)
    (target / "card.json").write_text(json.dumps(card))
    shutil.rmtree(Path(there.forest_root) / "elms" / "bible")
    before = sorted(p.name for p in Path(there.forest_root).rglob("*"))
    refused("needs the parent 'bible' .*, which .* does not have: import it first")


def test_parents_are_known_by_their_weights_not_by_their_names(copy, tmp_path):
    config = copy("branch=copy", "parent=bible", *SPARSE, "trainer.steps=3", "merge.force=true")
    _, there = shipped(config, tmp_path)
    elms = Path(there.forest_root) / "elms"
    (elms / "bible").rename(elms / "scripture")
    made = formats.import_model(there)
    assert list(made.card.parents) == ["scripture"]
    assert made.card.sha256 == Forest(config.forest_root)["new"].card.sha256


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parents_of_half_precision(copy, dtype):
    config = copy("branch=copy", *SPARSE)
    made = branch_of(config, "new")
    causal_lm.load_model(made).to(getattr(torch, dtype)).save_pretrained(made)
    start = shutil.copytree(made, made.with_name("start"))
    run(config, made, n=3)
    assert causal_lm.stored_dtype(made) == dtype
    delta.apply(delta.read(made / delta.FILE), start)
    assert (start / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    loaded = causal_lm.load_model(made)
    assert all(torch.isfinite(p).all() for p in loaded.parameters())


def test_a_root_is_dense_and_says_so(workspace, tmp_path):
    words = [*workspace, f"forest={tmp_path / 'forest'}", *SPARSE, "seed.steps=1"]
    steps.prepare(compose(words))
    seed = steps.seed(compose(words))
    assert seed.card.delta == {}
    config = compose([*words, "seed.name=second"])
    forest = Forest(config.forest_root)
    forest.root_branch("second", ["bible"], seed.load())
    with pytest.raises(UserError, match=r"trainer.delta_density=0.05: 'second' has no parents"):
        steps.train(config, "second")


def test_a_budget_that_vectors_fill_is_refused(copy):
    config = copy("branch=copy", "trainer.delta_density=0.001")
    steps.branch(config, "new", "bible")
    with pytest.raises(
        UserError, match=r"trainer.delta_density=0.001: \d+ parameters, fewer than .* \(\d+\): give"
    ):
        steps.train(config, "new")


@pytest.mark.parametrize("model", ["pico", "gpt2", "gpt_neox", "opt", "bloom"])
def test_every_architecture_is_its_parent_and_its_delta(model, tmp_path):
    file = ROOT / "conf" / "model" / f"{model}.yaml"
    config = configs.make_config(ModelConfig(**yaml.safe_load(file.read_text())), 320, 0)
    made = tmp_path / "made"
    causal_lm.new_model(config, 0).save_pretrained(made)
    parents = {"seed": {"weight": 1.0, "raw": 1.0, "sha256": weights.sha256(made)}}
    (made / "branch.json").write_text(json.dumps({"parents": parents}))
    start = shutil.copytree(made, tmp_path / "start")
    trainer = compose(["trainer.delta_density=0.05"]).trainer
    loaded = causal_lm.load_trainable(made, "cpu")
    trainee = sparse_training.SparseTrainee(loaded, None, made, trainer, 8)
    before = {name: p.detach().clone() for name, p in loaded.named_parameters()}
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter += 0.01
    trainee.constrain(None, 8)
    trainee.write(made, "float32")
    assert trainee.said["nonzeros"] == trainee.budget
    delta.apply(delta.read(made / delta.FILE), start)
    assert (start / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
    found = dict(causal_lm.load_model(made).named_parameters())
    assert sum(int((found[name] != p).sum()) for name, p in before.items()) == trainee.budget
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("delta_density=0", r"trainer.delta_density=0.0: wanted \(0, 1\]"),
        ("delta_density=1.5", r"trainer.delta_density=1.5: wanted \(0, 1\]"),
        ("delta_prune=0", r"trainer.delta_prune=0.0: wanted \(0, 1\]"),
        ("delta_every=-1", "trainer.delta_every=-1: wanted 0 or more"),
        (
            "delta_mask=magnitude",
            "trainer.delta_mask='magnitude': choose one of momentum, normalised, random",
        ),
    ],
)
def test_settings_that_make_no_sense(word, message):
    with pytest.raises(UserError, match=message):
        compose([f"trainer.{word}"])
