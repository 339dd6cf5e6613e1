"""Containers of jobs on Slurm: the batch scripts that are submitted, word by word."""

import shlex
import subprocess
from pathlib import Path

import pytest

from btm.cli import main
from btm.cli.compose import compose
from btm.errors import UserError
from btm.launch.container import folders_of
from btm.launch.engine import Resources
from btm.launch.slurm_script import script_of


def written(tmp_path, *words, verb="train"):
    """The words of the command that a batch script runs, and its text."""
    config = compose(["cluster=slurm", "experiment=demo", *words])
    resources = Resources.of(config.cluster, verb)
    script = script_of("btm-1", "demo", resources, config.cluster, (), folders_of(config))
    file = tmp_path / "batch.sh"
    script.write(file, 3, 3, tmp_path / "m 1.json")
    subprocess.run(["bash", "-n", file], check=True)
    command = next(line for line in file.read_text().splitlines() if line.startswith("srun "))
    return shlex.split(command), file.read_text()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a blank in its name."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_apptainer_stands_before_the_command(place, tmp_path):
    words, text = written(
        tmp_path,
        "cluster.container=btm.sif",
        "cluster.train.gpus=2",
        "cluster.setup=[module load apptainer]",
        "cluster.container_mounts=[/scratch,/old:/new:ro]",
        "cluster.container_options=[--no-home]",
        "data.out=/lustre/text",
    )
    begin = words.index("apptainer")
    assert not [word for word in words[:begin] if "container" in word]
    assert words[begin : begin + 3] == ["apptainer", "exec", "--nv"]
    bound = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    own = ["/lustre/text:/lustre/text", f"{place}:{place}"]
    assert bound == [*own, "/scratch:/scratch", "/old:/new:ro"]
    last = ["--pwd", str(place), "--no-home", str(place / "btm.sif"), "python3", "-u", "-m"]
    assert words[-9:] == [*last, "btm.launch.slurm_task", str(tmp_path / "m 1.json")]
    assert text.index("module load apptainer\n") < text.index("srun --unbuffered")


def test_a_job_without_gpus_asks_for_no_driver(place, tmp_path):
    given = ["cluster.container=docker://org/btm:1", "cluster.train.gpus=1"]
    given += ["cluster.container_runtime=singularity", "cluster.python=/opt/env/bin/python"]
    words, _ = written(tmp_path, *given, verb="score")
    begin = words.index("singularity")
    assert "--nv" not in words
    assert words[begin + 2 :][-6:-3] == ["docker://org/btm:1", "/opt/env/bin/python", "-u"]
    asked, _ = written(tmp_path, *given, "cluster.train.gpus=0", "cluster.extra={gpus: 4}")
    assert "--nv" in asked


@pytest.mark.parametrize("image", ["btm.sqsh", "nvcr.io#nvidia/pytorch:24.01-py3"])
def test_pyxis_is_asked_of_srun_not_of_sbatch(image, place, tmp_path):
    """With sbatch the batch script itself would run in the container, which has no srun."""
    given = [f"cluster.container={image}", "cluster.container_mounts=[/scratch,/old:/new:ro]"]
    given += ["cluster.container_options=[--container-writable]"]
    if not image.endswith(".sqsh"):
        given.append("cluster.container_runtime=pyxis")
    words, text = written(tmp_path, *given)
    whole = str(place / image) if image.endswith(".sqsh") else image
    mounts = f"{place}:{place},/scratch:/scratch,/old:/new:ro"
    begin = words.index(f"--container-image={whole}")
    assert words[begin + 1 :] == [
        f"--container-mounts={mounts}",
        f"--container-workdir={place}",
        "--container-writable",
        *("python3", "-u", "-m", "btm.launch.slurm_task", str(tmp_path / "m 1.json")),
    ]
    assert "#SBATCH --container" not in text


def test_a_link_is_mounted_under_both_of_its_paths(place, tmp_path):
    (tmp_path / "disk").mkdir()
    (place / "experts").symlink_to(tmp_path / "disk")
    words, _ = written(tmp_path, "cluster.container=btm.sif")
    bound = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    assert bound == [f"{tmp_path / 'disk'}:{tmp_path / 'disk'}", f"{place}:{place}"]


def test_a_name_that_no_mount_can_have_is_told(tmp_path, monkeypatch):
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path / "a:b")
    with pytest.raises(UserError, match="a:b cannot be mounted, since ':' and ',' separate"):
        written(tmp_path, "cluster.container=btm.sif")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["container="], "cluster.container='': wanted an image"),
        (["container=a.sif", "container_runtime=docker"], "choose one of apptainer, singularity"),
        (["container=a.sif", "container_runtime=pyxis"], "Pyxis takes no .sif"),
        (["container=a.sif", "container_mounts=[scratch]"], "wanted SRC, SRC:DST or SRC:DST:ro"),
        (["container=a.sif", "container_mounts=[/a:/b:rw:x]"], "wanted SRC, SRC:DST"),
        (["container=a.sif", "container_options=[no-home]"], "wanted an option with its value"),
        (["container=a.sif", "container_options=[--cleanenv]"], "hide the variables of Slurm"),
        (["container=a.sif", "train.extra={container-image: b}"], "beside cluster.container"),
        (["container=no.sif"], "cluster.container=no.sif: no such image here; wanted a file"),
        (["container=b#c:1"], "or an address such as docker://ORG/IMAGE:TAG"),
        (["container_mounts=[/a]"], "there is no container; give cluster.container=IMAGE"),
        (["kind=local", "container=a.sif"], "only the jobs of btm run cluster=slurm run in"),
        (["kind=local", "train.qos=high"], "cluster.train.qos has no effect here: cluster=local"),
    ],
)
def test_a_mistake_is_one_line(words, said, place, capsys):
    given = [f"cluster.{word}" for word in words]
    assert main.main(["run", "experiment=demo", "cluster=slurm", *given, "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not list(Path(place).iterdir())


def test_a_verb_without_jobs_reads_no_container(place, capsys):
    words = ["seed", "experiment=demo", "cluster=slurm", "cluster.container=a.sif"]
    assert main.main(words) == 2
    assert "cluster.container has no effect here" in capsys.readouterr().err
