"""Containers of jobs on Slurm: what is added to srun, or stands before the command.

Pyxis, a plugin of srun, runs the command in a container of enroot; apptainer and singularity are
commands themselves. A job sees the working folder, its forest and its text under their own paths,
so that paths mean the same in the container as outside.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from btm.config.cluster import ClusterConfig
from btm.config.schema import Config
from btm.errors import UserError

PYTHON = "python3"  # of the image, where cluster.python names no other
_SQUASHED = ".sqsh"  # an image that enroot made


@dataclass(frozen=True)
class Container:
    """The words by which a job runs in a container; both are empty where it runs in none."""

    srun: list[str]  # options of srun
    before: list[str]  # words before the command


NONE = Container([], [])


def container_of(cluster: ClusterConfig, folders: Iterable[Path], *, gpus: bool) -> Container:
    """Make the container of a job that reads and writes `folders`, and has GPUs if `gpus` is true.

    Raises `UserError` for a folder whose name no mount can have.
    """
    if cluster.container is None:
        return NONE
    here = Path.cwd()
    mounts = [*_own_mounts([here, *folders]), *map(_whole, cluster.container_mounts)]
    image = _image(cluster)
    if runtime_of(cluster) == "pyxis":
        options = [f"--container-image={image}", f"--container-mounts={','.join(mounts)}"]
        return Container([*options, f"--container-workdir={here}", *cluster.container_options], [])
    options = ["--nv"] if gpus else []
    for mount in mounts:
        options += ["--bind", mount]
    options += ["--pwd", str(here), *cluster.container_options]
    return Container([], [runtime_of(cluster), "exec", *options, image])


def runtime_of(cluster: ClusterConfig) -> str:
    """Name the runtime of the containers: the one that is asked for, or by the image's ending."""
    by_image = "pyxis" if str(cluster.container).endswith(_SQUASHED) else "apptainer"
    return cluster.container_runtime or by_image


def command_of(container: Container, python: str) -> str:
    """Write the command that is Python in `container`, for a shell."""
    return " ".join([*map(shlex.quote, container.before), python])


def folders_of(config: Config) -> list[Path]:
    """List the folders that the jobs of a cycle read and write, beside the working folder.

    The text that is not prepared yet is none of them: it is prepared before a job is submitted.
    """
    forest = Path(config.forest_root)
    given = [config.seed.source, *config.models]
    models = [Path(each) for each in given if each is not None and Path(each).is_dir()]
    return [forest.parent, forest, Path(config.data.out), *models]


def require(config: Config) -> None:
    """Raise `UserError` if there is no such image here, or a folder that cannot be mounted."""
    cluster = config.cluster
    if cluster.container is None:
        return
    container_of(cluster, folders_of(config), gpus=False)
    if _is_path(cluster) and not Path(cluster.container).exists():
        address = "ORG/IMAGE:TAG" if runtime_of(cluster) == "pyxis" else "docker://ORG/IMAGE:TAG"
        raise UserError(
            f"cluster.container={cluster.container}: no such image here; wanted a file or folder "
            f"on a disk that the nodes share, or an address such as {address}"
        )


def _is_path(cluster: ClusterConfig) -> bool:
    """Tell whether the image is a file or a folder; Pyxis takes other names for a registry's."""
    image = cluster.container or ""
    if runtime_of(cluster) == "pyxis":
        return image.startswith(("/", ".")) or image.endswith(_SQUASHED)
    return "://" not in image


def _image(cluster: ClusterConfig) -> str:
    image = cluster.container or ""
    return str(Path(image).absolute()) if _is_path(cluster) else image


def _own_mounts(folders: Sequence[Path]) -> list[str]:
    """Write the mounts of folders under their own paths, and under the paths that links lead to;
    a folder within another needs none.
    """
    wanted = {path for each in folders for path in (each.absolute(), each.resolve())}
    wanted.discard(Path("/"))
    mounts = []
    for path in sorted(wanted):
        if any(above in wanted for above in path.parents):
            continue
        if any(sign in str(path) for sign in ":,"):
            raise UserError(
                f"cluster.container: {path} cannot be mounted, since ':' and ',' separate mounts; "
                "give the folder another name, or a path through a link"
            )
        mounts.append(f"{path}:{path}")
    return mounts


def _whole(mount: str) -> str:
    """Write a mount with its place in the container, which older Pyxis do not fill in."""
    return mount if ":" in mount else f"{mount}:{mount}"
