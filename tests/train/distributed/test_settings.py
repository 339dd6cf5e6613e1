"""What several processes can train together, what they get, and what --dry-run says of them."""

import pytest

from btm.cli.compose import compose
from btm.cli.dry_run import plan
from btm.config.cluster import processes_of
from btm.config.schema import Config
from btm.config.validation import validate
from btm.errors import UserError
from btm.launch.engine import Resources
from btm.launch.local import LocalEngine
from btm.launch.records import Records, Spec
from btm.train.distributed import job as distributed

REFUSED = {
    "trainer.batch_size=10: cluster.gpus_per_expert=4 processes share it equally: give 8 or 12": (
        {"batch_size": 10},
        {"gpus_per_expert": 4},
        {},
    ),
    "cluster.train.gpus_per_expert=4: does not go with trainer.delta_density=0.1": (
        {"delta_density": 0.1},
        {},
        {"gpus_per_expert": 4},
    ),
    "cluster.gpus_per_expert=4: does not go with trainer.offload=True": (
        {"offload": True},
        {"gpus_per_expert": 4},
        {},
    ),
    "does not go with trainer.backend=fairseq": (
        {"backend": "fairseq"},
        {"gpus_per_expert": 4},
        {},
    ),
    "does not go with trainer.optimizer=adamw8bit with trainer.parallel=fsdp": (
        {"optimizer": "adamw8bit", "parallel": "fsdp"},
        {"gpus_per_expert": 4},
        {},
    ),
    "does not go with trainer.device=cuda:1": ({"device": "cuda:1"}, {"gpus_per_expert": 4}, {}),
    "does not go with cluster.nodes=2": ({}, {"gpus_per_expert": 4}, {"nodes": 2}),
    "does not go with cluster.gpus=2": ({}, {"gpus": 2}, {"gpus_per_expert": 4}),
    "cluster.gpus_per_expert=0: wanted more than 0": ({}, {"gpus_per_expert": 0}, {}),
    "cluster.train.gpus_per_expert=0: wanted 1 or more": ({}, {}, {"gpus_per_expert": 0}),
    "trainer.parallel='zero': choose one of ddp, fsdp": ({"parallel": "zero"}, {}, {}),
}


def configured(trainer, cluster, train, **top):
    config = Config(**top)
    for node, values in (
        (config.trainer, trainer),
        (config.cluster, cluster),
        (config.cluster.train, train),
    ):
        for key, value in values.items():
            setattr(node, key, value)
    return config


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_go_together_is_refused_by_name(said):
    with pytest.raises(UserError) as refused:
        validate(configured(*REFUSED[said]))
    assert said in str(refused.value)


def test_demix_is_trained_in_one_process():
    with pytest.raises(UserError, match="gpus_per_expert=4: does not go with baseline=demix"):
        validate(configured({}, {}, {"gpus_per_expert": 4}, baseline="demix"))


def test_a_seed_has_processes_of_its_own_and_may_be_dense():
    config = configured({"delta_density": 0.1}, {}, {})
    config.cluster.seed.gpus_per_expert = 2
    validate(config)
    assert [processes_of(config.cluster, verb) for verb in ("seed", "train", "score")] == [2, 1, 1]
    assert distributed.said(config, "seed") == ", 2 processes together (ddp)"
    assert distributed.said(config, "train") == ""


@pytest.mark.parametrize(
    ("cluster", "verb", "device", "cards"),
    [
        ({"gpus_per_expert": 4}, "train", "auto", 4),
        ({"gpus_per_expert": 4}, "train", "cpu", 0),
        ({"gpus_per_expert": 4}, "score", "auto", 0),
        ({"gpus_per_expert": 4, "gpus": 6}, "seed", "auto", 6),
        ({}, "train", "auto", 0),
    ],
)
def test_a_job_asks_for_a_gpu_for_each_process(cluster, verb, device, cards):
    config = configured({}, cluster, {})
    assert Resources.of(config.cluster, verb, device).cards == cards


def specs(config, tmp_path):
    cycle = Records(tmp_path).write_cycle(config, [["law"]])
    return [Spec(str(tmp_path), cycle.id, job, 1) for job in cycle.jobs if job.verb == "train"]


def test_this_machine_refuses_more_than_it_has_cards_for(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    config = configured({}, {"gpus_per_expert": 4}, {}, forest=str(tmp_path))
    with pytest.raises(UserError, match=r"cluster.gpus_per_expert=4: this machine has 3 GPUs"):
        LocalEngine(config).submit(specs(config, tmp_path), Resources.of(config.cluster, "train"))


def test_a_job_gets_a_thread_and_a_card_for_each_process(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    config = configured({"threads": 1}, {"gpus_per_expert": 2}, {}, forest=str(tmp_path))
    engine = LocalEngine(config, cores=4)
    [spec] = specs(config, tmp_path)
    resources = Resources.of(config.cluster, "train")
    assert engine._cards_of(spec, resources) == 2
    assert engine._cpus(spec, resources) == 2
    config.trainer.parallel = "fsdp"
    shared = engine._bytes(spec.job, resources)
    config.trainer.parallel = "ddp"
    assert engine._bytes(spec.job, resources) >= shared


def test_a_dry_run_says_it(tmp_path):
    words = ["experiment=smoke", f"forest={tmp_path / 'forest'}", f"data.out={tmp_path / 'data'}"]
    together = ["cluster.train.gpus_per_expert=2", "trainer.parallel=fsdp"]
    rows = {row["job"]: row["what"] for row in plan("run", compose([*words, *together]), ())}
    assert rows["train-bible"] == "train 30 steps, 2 processes together (fsdp)"
    assert rows["seed"] == "train 60 steps"
