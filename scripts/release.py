"""Build a release and check it: scripts/release, which has the tools for it.

In dist/ (or --out): sdist, wheel, CycloneDX bill of materials, SLSA provenance, checksums. A
release is refused unless the tree is clean and the top of CHANGELOG.md is the version; then it is
tagged. A dry run does everything else and lists what would be refused.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent


def main() -> int:
    """Build, check and, unless this is a dry run, tag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="tag nothing, refuse nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="an empty folder")
    parser.add_argument("--python", help="a Python with btm's dependencies (default: a new one)")
    given = parser.parse_args()
    os.chdir(ROOT)
    version = read_version()
    reasons = refusals(version)
    if reasons and not given.dry_run:
        sys.exit("\n".join(f"release: {reason}" for reason in reasons))
    given.out.mkdir(parents=True, exist_ok=True)
    if any(given.out.iterdir()):
        sys.exit(f"release: {given.out} is not empty")
    wheel, sdist = build(given.out)
    check(wheel, sdist)
    with tempfile.TemporaryDirectory() as folder:
        python = given.python or environment(Path(folder), wheel)
        run_alone(wheel, python)
        sbom = given.out / f"{wheel.name.removesuffix('.whl')}.cdx.json"
        run("cyclonedx-py", "environment", "--pyproject", "pyproject.toml",
            # against CycloneDX's schema: 20 seconds, which a dry run does without
            "--no-validate" if given.dry_run else "--validate",
            "--output-reproducible", "--output-file", sbom, python)  # fmt: skip
    provenance = given.out / f"{wheel.name.removesuffix('.whl')}.intoto.json"
    provenance.write_text(json.dumps(statement([wheel, sdist, sbom]), indent=2) + "\n")
    files = [wheel, sdist, sbom, provenance]
    sums = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    (given.out / "SHA256SUMS").write_text(sums)
    print(sums, end="")
    for reason in reasons:
        print(f"a release would be refused: {reason}")
    if not given.dry_run:
        run("git", "tag", "--annotate", f"v{version}", "--message", f"btm {version}")
        print(f"tagged v{version}; upload: .venv-release/bin/twine upload {wheel} {sdist}")
    return 0


def read_version() -> str:
    """Read the version of the package without importing it."""
    return re.search(r'^__version__ = "(.+)"', Path("btm/__init__.py").read_text(), re.M)[1]


def refusals(version: str) -> list[str]:
    """List what stands in the way of releasing `version` from this tree."""
    found = []
    top = re.search(r"^## (.+)", Path("CHANGELOG.md").read_text(), re.M)[1]
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", top):
        found.append(f"CHANGELOG.md begins with '## {top}': wanted '## {version} (YEAR-MM-DD)'")
    cited = re.search(r"^version: (.+)", Path("CITATION.cff").read_text(), re.M)[1]
    if cited != version:
        found.append(f"CITATION.cff has version {cited}: wanted {version}")
    if git("status", "--porcelain"):
        found.append("the working tree is not clean: commit or stash what git status lists")
    if git("tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} stands already: raise __version__ in btm/__init__.py")
    return found


def build(out: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel of it; the wheel of the tree must be the same bytes."""
    environ = os.environ | {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct")}
    command = ["python", "-m", "build", "--no-isolation", "--outdir"]
    run(*command, out, env=environ, quiet=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        run(*command, folder, "--wheel", env=environ, quiet=True)
        if (Path(folder) / wheel.name).read_bytes() != wheel.read_bytes():
            sys.exit("release: the wheel of the tree differs from the wheel of the sdist")
    return wheel, sdist


def check(wheel: Path, sdist: Path) -> None:
    """Check metadata, citation and Dockerfile by the linters of each."""
    run("twine", "check", "--strict", wheel, sdist)
    citation = ("--builtin-schema", "vendor.citation-file-format", "CITATION.cff")
    run("check-jsonschema", "--quiet", *citation)
    run("hadolint", "Dockerfile")


def environment(folder: Path, wheel: Path) -> str:
    """Install the wheel with its dependencies and nothing else; return that Python."""
    run("python", "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    torch = os.environ.get("BTM_TORCH", "torch==2.13.0").split()
    for words in (torch, [wheel]):
        run(python, "-m", "pip", "install", "--quiet", *words)
    return str(python)


def run_alone(wheel: Path, python: str) -> None:
    """Run the command out of the unpacked wheel, away from this tree."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        environ = os.environ | {"PYTHONPATH": folder}
        for words in (["--version"], ["run", "--help"]):
            run(python, "-m", "btm.cli", *words, cwd=folder, env=environ, quiet=True)


def statement(files: list[Path]) -> dict:
    """State what was built of which commit and how: in-toto, with SLSA's provenance v1."""
    commit = git("rev-parse", "HEAD")
    subject = [{"name": file.name, "digest": {"sha256": sha256(file)}} for file in files]
    source = {"uri": "git+file:.", "digest": {"gitCommit": commit}}
    dirty = bool(git("status", "--porcelain"))
    definition = {
        "buildType": "https://packaging.python.org/en/latest/flow/#using-build",
        "externalParameters": {"command": "scripts/release", "uncommittedChanges": dirty},
        "resolvedDependencies": [source],
    }
    ended = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    details = {"builder": {"id": "scripts/release"}, "metadata": {"finishedOn": ended}}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"buildDefinition": definition, "runDetails": details},
    }


def run(*words: object, quiet: bool = False, **options: object) -> None:
    """Run a program, one of the tools by its name; a failure of it ends the release."""
    first, *rest = map(str, words)
    tool = TOOLS / first
    command = [str(tool) if tool.exists() else first, *rest]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    done = subprocess.run(command, check=False, text=True, **kept, **options)
    if done.returncode:
        sys.exit(f"{done.stdout or ''}release: {' '.join(command)} failed")


def git(*words: str) -> str:
    """Ask git and return what it says."""
    return subprocess.check_output(["git", *words], text=True).strip()


def sha256(file: Path) -> str:
    """Hash a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
