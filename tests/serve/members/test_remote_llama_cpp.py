"""An expert that a real llama.cpp server runs (scripts/llama_cpp), on a GGUF that btm exported."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import ROOT
from serve_remote import answers, engine_of, remote, requests_of, require_same, tokens_of

from btm.cli.main import main
from btm.serve.catalog import Catalog

HOME = ROOT / ".llama-server"


@pytest.fixture(scope="module")
def llama_cpp(grown, tmp_path_factory):
    """The URL of llama.cpp's server over the expert `bible`."""
    if not (HOME / "xllamacpp").is_dir() and not os.environ.get("CI"):
        pytest.skip("no llama.cpp server here: scripts/llama_cpp")
    file = tmp_path_factory.mktemp("gguf") / "bible.gguf"
    words = ["export", f"forest={grown[0].forest_root}", "expert=bible", "export.dtype=fp32"]
    assert main([*words, "format=gguf", f"to={file}"]) == 0
    script = Path(__file__).with_name("llama_server.py")
    with subprocess.Popen(
        [sys.executable, script, file, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HOME)},
    ) as process:
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http"))
        finally:
            process.kill()


@pytest.mark.slow
def test_an_expert_that_llama_cpp_runs_is_as_good_as_the_local_one(grown, without, llama_cpp):
    local, far = Catalog(grown[0]), remote(without, f"{llama_cpp}/v1", top=512)
    with engine_of(local) as engine:
        wanted = answers(engine, requests_of(local))
    with engine_of(far) as engine:
        found = answers(engine, requests_of(far))
    require_same(found, wanted, far=1e-4)


@pytest.mark.slow
def test_where_prompts_are_not_scored_the_posterior_is_within_its_bound(grown, without, llama_cpp):
    local, far = Catalog(grown[0]), remote(without, f"{llama_cpp}/v1", top=60)
    with engine_of(far) as engine:
        found = answers(engine, requests_of(far, "forest:bayes"))
    with engine_of(local) as engine:
        exact = answers(engine, requests_of(local, "forest:bayes"))
    bounds, errors = [], []
    for mine, theirs in zip(map(tokens_of, found), map(tokens_of, exact), strict=True):
        for token, true in zip(mine, theirs, strict=True):
            weights = [(token.posterior[name], true.posterior[name]) for name in true.posterior]
            bounds.append(token.bound)
            errors.append(0.5 * sum(abs(a - b) for a, b in weights))
            if token.id != true.id:  # from here on they write other texts
                break
    assert len(errors) > 20
    assert np.all(np.array(errors) <= np.array(bounds) + 1e-4)
    assert max(errors) > 1e-3  # else nothing was left open
