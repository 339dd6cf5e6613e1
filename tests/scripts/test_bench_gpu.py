"""All that scripts/gpu asks of a GPU, on the CPU at the smallest sizes: the same code, and no network."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from folders import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STAGES = ["tests", "train", "demo", "serve", "paper"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared_demo):
    """A function that runs scripts/gpu --dry in one folder and gives its output and results."""
    out = tmp_path_factory.mktemp("gpu")
    shutil.copytree(prepared_demo, out / "data")

    def call(*words):
        done = subprocess.run(
            ["scripts/gpu", "--dry", f"--out={out}", *words],
            cwd=ROOT,
            env=os.environ | {"PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
        logs = "\n".join(path.read_text()[-2000:] for path in out.glob("*.log"))
        assert done.returncode == 0, done.stdout + done.stderr + logs
        return done, json.loads((out / "results.json").read_text())

    return call


def test_every_stage_passes(run):
    _, results = run("--only", *STAGES[:-1])
    assert {stage["name"]: stage["status"] for stage in results["stages"]} == dict.fromkeys(
        STAGES[:-1], "passed"
    )
    figures = {stage["name"]: stage["figures"] for stage in results["stages"]}
    assert figures["tests"]["tests"] > 10
    assert {row["loop"] for row in figures["train"]} >= {"btm, not compiled", "btm, plain"}
    assert "dense" in {row["kind"] for row in figures["demo"]}


def test_a_stage_that_passed_is_not_run_again(run):
    first, results = run()
    assert [line for line in first.stderr.splitlines() if "…" in line] == [f"{STAGES[-1]} …"]
    assert [(stage["name"], stage["status"]) for stage in results["stages"]] == [
        (name, "passed") for name in STAGES
    ]
    assert len(results["stages"][-1]["figures"]) > 2
    again, unchanged = run()
    assert "…" not in again.stderr and unchanged["stages"] == results["stages"]
    assert all(f"{name:8}passed" in again.stdout for name in STAGES)


def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run(
        ["scripts/gpu", f"--out={tmp_path}"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "sees no GPU here; --dry runs" in done.stderr
