"""A real forest of pico models on real text, grown once and shared by the tests that only
read it.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager

# Before torch is loaded: two threads take half as much time again for a step of models so small.
os.environ["OMP_NUM_THREADS"] = "1"

import browsing
import hypothesis
import pytest
import questions
import torch
from fairseq_models import converted, place, returned  # noqa: F401
from folders import DEMO, uncovered_children

from btm import steps
from btm.cli.compose import compose
from btm.config.data import DataConfig
from btm.data.prepare import prepare
from btm.forest import Forest
from btm.system.processes import collect_garbage_seldom

# What libraries and thousands of tests bring along stays.
collect_garbage_seldom()
# On a machine with other work an example takes as long as it takes.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")
pytest_plugins = ["buckets", "clusters"]
DOMAINS = ["bible", "code_python", "speeches", "novels"]


def group_of(nodeid):
    """Name the group of tests that share a process: those of a file; all that start jobs here, which
    count the cores; and in two halves all on Slurm, which mostly wait for it.
    """
    file = nodeid.partition("::")[0]
    if file.endswith("test_slurm.py"):
        return "slurm"
    if file.endswith(("test_slurm_stops.py", "test_slurm_sites.py")):
        return "slurm, stopped"
    if file.startswith(
        ("tests/fairseq/", "tests/data/test_binarised", "tests/interop/test_fairseq")
    ):
        return "fairseq"  # which trains the models that they share, in ten seconds
    starts_jobs = "tests/launch/" in file or file.endswith("test_crash.py")
    return "jobs" if starts_jobs else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Schedule by group. xdist's own `loadgroup` does nothing under pytest 9.2: each test would be
    a group, and fixtures of modules would be made in every process.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    config.option.loadscopereorder = (
        False  # else small groups come last, and Slurm's is the longest
    )
    return ByGroup(config, log)


# Groups of a minute and more, the longest first: none may begin when other processes are done.
LONGEST = [
    "slurm",
    "slurm, stopped",
    "jobs",
    "tests/scripts/test_bench_gpu.py",
    "tests/paper/test_paper.py",
    "tests/commons/test_on_s3.py",
    "tests/scripts/test_bench_train.py",
    "tests/train/fairseq/test_training.py",
    "tests/serve/members/cluster/test_cluster.py",
    "tests/test_pages.py",
    "fairseq",
    "tests/steps/baselines/test_baselines.py",
    "tests/train/distributed/test_job.py",
    "tests/test_readme.py",
    "tests/forest/test_concurrency.py",
    "tests/train/test_loop.py",
]


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(items):
    """Begin with the groups that take longest. What needs the shared forest is slow, since growing
    that takes ten seconds; coverage is measured there all the same.
    """
    for item in items:
        if "grown" in item.fixturenames and item.get_closest_marker("slow") is None:
            item.add_marker("slow")
            item.add_marker("traced")
    rank = {group: number for number, group in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure no coverage in slow tests, nor in fixtures that they are first to need: it would double
    their time. Those marked `traced` run lines that no other test does.
    """
    if item.get_closest_marker("slow") is None or item.get_closest_marker("traced"):
        return (yield)
    with untraced():
        return (yield)


@contextmanager
def untraced():
    """Leave off measuring coverage, here and in the processes that are started meanwhile."""
    coverage = sys.modules.get("coverage")
    measuring = []
    # A process of pytest-xdist has three: when one stops, the next goes on.
    while coverage and (measured := coverage.Coverage.current()):
        measured.stop()
        measuring.append(measured)
    try:
        with uncovered_children():
            yield
    finally:
        for measured in reversed(measuring):
            # To start patches os.fork and os._exit each time, so that a fork would take seconds.
            patches = measured.get_option("run:patch")
            measured.set_option("run:patch", [])
            measured.start()
            measured.set_option("run:patch", patches)


@pytest.fixture(autouse=True, scope="session")
def no_terminal():
    """Tables are as wide as they like: readline, which pytest imports, tells all processes that are
    started here of a terminal of 80 columns. It does so behind the back of os.environ.
    """
    os.environ.pop("COLUMNS", None)
    os.unsetenv("COLUMNS")


@pytest.fixture(autouse=True, scope="module")
def threads_as_before():
    """What a module trains in this process has its trainer.threads set for the whole of it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """A shell that starts the tests in the background has them, and all they start, ignore
    Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder that all processes of these tests have in common."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(autouse=True, scope="session")
def caches_of_their_own(tmp_path_factory, shared):
    """What tests index stays out of the user's cache. What torch's compiler tries and compiles is
    shared: that costs each process 20 seconds, and the tests that scripts/gpu starts use it too.
    So is matplotlib's list of fonts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(shared / "compiled"))
        patch.setenv("MPLCONFIGDIR", str(shared / "matplotlib"))
        yield


@pytest.fixture(scope="session")
def prepared_demo(shared):
    """The demo's whole text, prepared once for all processes that test: a folder for data.out."""
    with (shared / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        steps.prepare(compose([f"data.out={shared / 'prepared'}"]))
    return shared / "prepared"


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Four domains of the embedded suite, one of them novel, as a folder of the user's own text
    would lie.
    """
    root = tmp_path_factory.mktemp("texts")
    for domain in DOMAINS:
        shutil.copytree(DEMO / domain, root / domain)
    (root / "suite.json").write_text(json.dumps({"domains": {"novels": {"novel": True}}}))
    return root


@pytest.fixture(scope="session")
def examples_config(tmp_path_factory):
    """Settings of a suite of prompted data: completions, weighted ones, conversations."""
    folder = tmp_path_factory.mktemp("examples")
    questions.write(folder / "root" / "speeches.jsonl", questions.rows())
    return DataConfig(
        name="asked",
        root=str(folder / "root"),
        out=str(folder / "data"),
        format="prompted",
        max_tokens=128,
        vocab_size=512,
        workers=1,
    )


@pytest.fixture(scope="session")
def examples(examples_config):
    """That suite, which no test may change."""
    return prepare(examples_config)


@pytest.fixture(scope="session")
def workspace(texts, tmp_path_factory):
    """Overrides that put the smoke experiment on these texts, in a folder of its own."""
    root = tmp_path_factory.mktemp("work")
    return [
        "experiment=smoke",
        f"data.root={texts}",
        f"data.out={root / 'data'}",
        f"forest={root / 'forest'}",
        "trainer.steps=12",
        "seed.steps=24",
        "trainer.checkpoint_every=4",
        "trainer.log_every=1",
        "trainer.valid_tokens=512",
        "score.max_tokens=1024",
        "trainer.carry=auto",  # many tests read the moments that a seed keeps for its experts
        "average.method=linear",  # of uniform weights: many tests read that average
    ]


@pytest.fixture(scope="session")
def grown(workspace):
    """The configuration and the result of a whole run: seed, two experts, a third from those
    two.
    """
    config = compose(workspace)
    return config, steps.run(config)


@pytest.fixture
def forest(grown):
    """The shared forest; tests that change it work on `copy`."""
    return Forest(grown[0].forest_root)


@pytest.fixture
def copy(grown, workspace, tmp_path):
    """A function from overrides to a configuration whose forest is this test's own copy."""
    shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    return lambda *overrides: compose([*workspace, f"forest={tmp_path / 'forest'}", *overrides])


@pytest.fixture(scope="session")
def browser():
    """A Chromium is there."""
    browsing.require()
