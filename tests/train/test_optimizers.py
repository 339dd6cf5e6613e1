"""8-bit moments: what is quantised, how much it takes, exact resume; offload and gradient
checkpointing.
"""

import copy as copying
import gc
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from folders import uncovered
from safetensors.torch import load_file

from btm import steps
from btm.config.training import ModelConfig, TrainerConfig
from btm.data.batches import Batches
from btm.errors import UserError
from btm.forest import Forest
from btm.models import causal_lm, configs
from btm.system import lease, sums
from btm.train import checkpoint, loop, optimizers, schedule, trainee
from btm.train.training import Training

EIGHT = TrainerConfig(optimizer="adamw8bit", lr=1e-3, precision="fp32")
SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture
def model():
    return causal_lm.new_model(configs.make_config(ModelConfig(config=SHAPE), 512, 0), 0).train()


def tokens(seed=0):
    return torch.randint(0, 512, (4, 33), generator=torch.Generator().manual_seed(seed)).numpy()


def run(model, trainer, n=3):
    optimizer = optimizers.make_optimizer(model, trainer)
    for step in range(n):
        trainee.backward(model, tokens(step), trainer, "fp32")
        trainee.apply(optimizer, trainer.lr)
    return optimizer


def bits(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_moments_take_two_bytes_and_what_stays_in_32_bits_is_counted(model):
    size = optimizers.state_size(run(model, EIGHT, 1))
    small = sum(p.numel() for p in model.parameters() if p.numel() < optimizers.SMALLEST)
    large = sum(p.numel() for p in model.parameters()) - small
    books = 2 * 256 * 4
    assert size.in_32_bit == small == 5 * 64
    assert size.bytes == small * 8 + large * 2 + large // 256 * 2 * 4 + books
    assert 2.0 < size.per_parameter < 2.2
    plain = optimizers.state_size(run(model, TrainerConfig(lr=1e-3), 1))
    assert plain.in_32_bit == plain.parameters == small + large
    assert 8.0 <= plain.per_parameter < 8.01


def test_embeddings_can_keep_32_bits(model):
    size = optimizers.state_size(run(model, replace(EIGHT, embedding_bits=32), 1))
    assert size.in_32_bit == 5 * 64 + model.get_input_embeddings().weight.numel()
    # The library keeps its exceptions by address, for all optimizers of a process: the next must
    # have none of them.
    gc.collect()
    assert optimizers.state_size(run(copying.deepcopy(model), EIGHT, 1)).in_32_bit == 5 * 64


def test_steps_are_those_of_adamw_but_for_rounding(model):
    other = copying.deepcopy(model)
    begin = bits(model)
    run(model, EIGHT, 4), run(other, replace(EIGHT, optimizer="adamw"), 4)
    moved = {name: (p - begin[name]).flatten() for name, p in bits(other).items()}
    ours = {name: (p - begin[name]).flatten() for name, p in bits(model).items()}
    for name, step in moved.items():
        assert torch.nn.functional.cosine_similarity(step, ours[name], dim=0) > 0.98, name
        assert ours[name].norm() == pytest.approx(float(step.norm()), rel=0.1), name


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_checkpoint_goes_on_bit_for_bit(model, tmp_path, name):
    trainer = replace(EIGHT, optimizer=name)
    unbroken = copying.deepcopy(model)
    run_on = run(unbroken, trainer, 2)
    optimizer = run(model, trainer, 2)
    state = {"step": 2, "settings": {}, "environment": {}, "notes": []}
    with checkpoint.Writer() as writer:
        writer.save(tmp_path, model, optimizer, state)
    saved = checkpoint.latest(tmp_path)

    resumed = causal_lm.new_model(model.config, 1).train()
    again = optimizers.make_optimizer(resumed, trainer)
    checkpoint.load(saved, resumed, again)
    for trained, with_optimizer in ((unbroken, run_on), (resumed, again)):
        for step in (2, 3):
            trainee.backward(trained, tokens(step), trainer, "fp32")
            trainee.apply(with_optimizer, trainer.lr)
    assert equal(bits(unbroken), bits(resumed))
    ours, theirs = checkpoint.moments(resumed, again), checkpoint.moments(unbroken, run_on)
    assert ours.keys() == theirs.keys()
    assert equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"optimizer": "adamw"}, "step of .*: wanted 1 of float32, found 1 of torch.int64"),
        ({"embedding_bits": 32}, "wanted 32,768 of float32, found 32,768 of torch.uint8"),
    ],
)
def test_moments_of_another_kind_are_refused(model, tmp_path, change, found):
    checkpoint.save_moments(tmp_path / "m.safetensors", model, run(model, EIGHT, 1))
    optimizer = optimizers.make_optimizer(model, replace(EIGHT, **change))
    with pytest.raises(UserError, match=f"{found}.*trainer.carry=fresh"):
        checkpoint.load_moments(tmp_path / "m.safetensors", model, optimizer)


def test_offload_steps_on_a_copy_and_gives_the_same_bits(model):
    for name in ("adamw", "adamw8bit"):
        one, other = copying.deepcopy(model), copying.deepcopy(model)
        places = [p.data_ptr() for p in other.parameters()]
        run(one, replace(EIGHT, optimizer=name))
        optimizer = run(other, replace(EIGHT, optimizer=name, offload=True))
        assert equal(bits(one), bits(other))
        assert not equal(bits(model), bits(other))
        assert [p.data_ptr() for p in other.parameters()] == places
        assert all(p.grad is None for p in other.parameters())
        assert optimizers.state_device(optimizer, next(other.parameters())) == "cpu"


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(model):
    def pass_through(model):
        kept = []

        def keep(tensor):
            kept.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = trainee.backward(model, tokens(), EIGHT, "fp32")
        return loss, {name: p.grad for name, p in model.named_parameters()}, sum(kept)

    other = copying.deepcopy(model)
    causal_lm.checkpoint_gradients(other)
    (loss, gradients, kept), (same, theirs, fewer) = pass_through(model), pass_through(other)
    assert loss == same
    assert equal(gradients, theirs)
    assert fewer < 0.7 * kept


def test_without_bitsandbytes_the_message_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes .*: .*pip install .*\[int8\]'"):
        optimizers.make_optimizer(model, EIGHT)


LORA = """
from transformers import AutoConfig, AutoModelForCausalLM
from btm.config.training import TrainerConfig
from btm.train.lora import trainee
config = AutoConfig.for_model('llama', vocab_size=32, hidden_size=8, intermediate_size=8,
                              num_hidden_layers=1, num_attention_heads=1)
model = AutoModelForCausalLM.from_config(config)
trainee.inject(model, ['model.layers.0.mlp.up_proj'], TrainerConfig(lora_rank=2))
assert 'lora' in str(model) and 'bitsandbytes' in sys.modules
"""
MOMENTS = "from btm.train import optimizers\noptimizers._bitsandbytes()\n"


@pytest.mark.slow
@pytest.mark.parametrize("use", [MOMENTS, LORA], ids=["moments", "peft"])
def test_the_library_fetches_no_kernels(use):
    """On CPUs that multiply bfloat16 it would import `kernels`, and have it fetch code and
    run it.
    """
    script = (
        "import importlib.abc, sys, traceback\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'kernels':\n"
        "            asking = [frame.filename for frame in traceback.extract_stack()]\n"
        "            assert not any('bitsandbytes' in each for each in asking), 'kernels was looked for'\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"{use}\n"
        "print('kernels' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=uncovered(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert "kernels" not in done.stderr


def trained(config, name, **changes):
    made = steps.branch(config, name, "bible").path
    suite = steps.open_suite(config)
    trainer = replace(config.trainer, **changes)
    batches = Batches(
        [suite.shard("bible", "train")], trainer.seq_len, trainer.batch_size, trainer.seed
    )
    return made, lambda n=6, **more: loop.train(
        Training(
            made,
            batches,
            replace(trainer, **more),
            schedule.Schedule.of(trainer, horizon=6),
            6,
            pulse=lambda step: step >= n,
        )
    )


def test_a_stopped_training_goes_on_bit_for_bit(copy):
    config = copy("branch=copy", "trainer.optimizer=adamw8bit")
    whole, run_whole = trained(config, "whole")
    broken, run_broken = trained(config, "broken")
    result = run_whole()
    with pytest.raises(loop.TrainingStoppedError):
        run_broken(3)
    # What saves memory changes nothing, and so may change.
    assert run_broken(gradient_checkpointing=True, offload=True).exact
    for name in ("model.safetensors", "checkpoint-00000006/optimizer.safetensors"):
        assert sums.file_sha256(whole / name) == sums.file_sha256(broken / name)
    assert result.optimizer["bytes"] > 2 * result.optimizer["parameters"]
    assert "bytes of optimizer state per parameter" in result.notes[-1]


def test_a_checkpoint_older_than_a_setting_goes_on(copy):
    made, run_it = trained(copy("branch=copy"), "new")
    with pytest.raises(loop.TrainingStoppedError):
        run_it(3)
    file = checkpoint.latest(made) / "state.json"
    state = json.loads(file.read_text())
    del state["settings"]["optimizer"]
    file.write_text(json.dumps(state))
    with pytest.raises(UserError, match="optimizer was adamw, now adamw8bit"):
        run_it(optimizer="adamw8bit")
    assert run_it().exact


def test_an_expert_continues_the_moments_of_its_seed(copy):
    config = copy("branch=copy", "trainer.optimizer=adamw8bit", "trainer.steps=2")
    forest = Forest(config.forest_root)
    seed = forest["seed"].path
    steps.branch(config, "other", "bible")
    assert "'seed' was trained with adamw" in steps.train(config, "other").result["notes"][-1]
    config.trainer.carry = "continue"
    steps.branch(config, "new", "bible")
    with pytest.raises(UserError, match="'seed' was trained with adamw; use auto or fresh"):
        steps.train(config, "new")

    model = forest["seed"].load().train()
    optimizer = run_seed(model, config)
    (seed / checkpoint.MOMENTS).unlink()
    checkpoint.save_moments(seed / checkpoint.MOMENTS, model, optimizer)
    result = steps.train(config, "new").result
    assert "continues the optimizer and schedule of seed" in result["notes"]
    branch = lease.find(forest.root / "branches" / "new")
    stored = load_file(checkpoint.latest(branch) / checkpoint.MOMENTS)
    assert {int(value) for key, value in stored.items() if key.startswith("step.")} == {1 + 2}
    shutil.rmtree(branch)


def run_seed(model, config):
    optimizer = optimizers.make_optimizer(model, config.trainer)
    rows = torch.randint(0, 256, (2, 17)).numpy()
    trainee.backward(model, rows, config.trainer, "fp32")
    trainee.apply(optimizer, 0.0)
    return optimizer
