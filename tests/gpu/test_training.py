"""Training on the device: every way comes to the losses of a plain float32 training on the CPU, or
as near as its precision allows, and a resumed training equals an unbroken one.
"""

import pytest
import torch
from gpu.conftest import trained
from safetensors.torch import load_file

from btm import steps
from btm.report import Reporter
from btm.train import checkpoint
from btm.train.loop import TrainingStoppedError

FP32 = "trainer.precision=fp32"
# {what: (overrides, nats per token that a loss may differ by)}; the float32 of a GPU may be TF32
WAYS = {
    "fp32": ((FP32,), 5e-3),
    "fp32, no kernels": ((FP32, "trainer.kernels=false"), 5e-3),
    "bf16": (("trainer.precision=bf16",), 0.05),
    "bf16, recomputed activations": (
        ("trainer.precision=bf16", "trainer.gradient_checkpointing=true"),
        0.05,
    ),
    "micro-batches": ((FP32, "trainer.micro_batch_size=2"), 5e-3),
    "moments in host memory": ((FP32, "trainer.offload=true"), 5e-3),
    "checkpoints written at once": ((FP32, "trainer.write_behind=false"), 5e-3),
}


def assert_near(found, reference, most):
    assert len(found.losses) == len(reference.losses) == 12
    assert found.losses[-1] < found.losses[0] - 0.3, "it learns"
    assert max(abs(a - b) for a, b in zip(found.losses, reference.losses, strict=True)) <= most


@pytest.mark.parametrize("way", WAYS)
def test_losses_are_those_of_the_cpu(train, reference, way):
    words, most = WAYS[way]
    assert_near(train(*words), reference, most)


@pytest.fixture
def compiler(device):
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:
        pytest.skip(f"torch cannot compile here: {str(error).splitlines()[0]}")


@pytest.mark.filterwarnings("default")  # what the compiler warns of is not ours
def test_compiled_layers_come_to_the_same(compiler, train, reference):
    assert_near(train("trainer.precision=bf16", "trainer.compile=always"), reference, 0.05)


def test_moments_of_8_bits(train, reference):
    pytest.importorskip("bitsandbytes")
    found = train(FP32, "trainer.optimizer=adamw8bit")
    assert_near(found, reference, 0.1)
    kept = load_file(found.forest["seed"].path / checkpoint.MOMENTS)
    assert any(moment.dtype == torch.uint8 for moment in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_training_equals_an_unbroken_one(planted, train, precision):
    words = [f"trainer.precision={precision}", "trainer.compile=never"]
    unbroken = train(*words)
    config = planted(*words)

    class Stops(Reporter):
        def pulse(self, step):
            return step == 6

    with pytest.raises(TrainingStoppedError):
        steps.seed(config, Stops())
    resumed = trained(config)
    assert resumed.losses == unbroken.losses
    assert all(torch.equal(resumed.weights[name], t) for name, t in unbroken.weights.items())
    assert resumed.card["exact"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_devices_come_to_what_one_comes_to(planted, reference, device, parallel):
    """On a GPU as many processes as there are GPUs; on the CPU two, under one kind alone: there
    tests/train/distributed/test_job.py has both.
    """
    if device == "cpu" and parallel == "fsdp":
        pytest.skip("tests/train/distributed/test_job.py trains so on the CPU")
    size = min(torch.cuda.device_count(), 8) if device == "cuda" else 2
    if size < 2:
        pytest.skip("one GPU here")
    words = [FP32, f"cluster.gpus_per_expert={size}", f"trainer.parallel={parallel}"]
    assert_near(trained(planted(*words)), reference, 5e-3)
