import io
import tarfile
from pathlib import Path

import pytest

import btm.data
from btm.data.documents import read

DEMO = Path(btm.data.__file__).parent / "demo"


@pytest.fixture(scope="session")
def real():
    """Real texts by domain, as they lie in the embedded suite."""
    return {
        name: list(read(DEMO / name / "train.jsonl.zst", "text"))[:80]
        for name in ("speeches", "novels", "bible", "spanish", "code_tcl")
    }


@pytest.fixture(scope="session")
def package():
    """Make the npm package `name` 1.0.0 out of {member: text}, where a download would leave it."""

    def make(work, name, files):
        path = work / "npm" / f"{name}-1.0.0.tgz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as tar:
            for member, text in files.items():
                data = text.encode()
                info = tarfile.TarInfo(f"package/{member}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return make
