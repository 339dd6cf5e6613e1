"""lm-evaluation-harness, which CI has; where it is missing, its tests are left out."""

import os

import pytest


@pytest.fixture(scope="session")
def lm_eval(tmp_path_factory):
    """lm_eval, with a cache of data sets of the tests' own."""
    if not os.environ.get("CI"):
        pytest.importorskip("lm_eval")
    import datasets
    import lm_eval

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield lm_eval


@pytest.fixture
def few_files(monkeypatch):
    """lm_eval without its own 14,000 tasks, which take ten seconds to look through."""
    import lm_eval.tasks as theirs

    whole = theirs.TaskManager
    monkeypatch.setattr(
        theirs, "TaskManager", lambda *_, **words: whole(**words | {"include_defaults": False})
    )
