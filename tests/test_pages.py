"""Every command of README and docs is run as it stands on its page, at the smallest sizes.

A section's commands run in order, in a folder that holds what the page takes for granted: the
demo's forest, a forest of the reader's own, text, models. Words that make it small are added behind
those of the page, as a reader could. What cannot be run here stands in NOT_RUN with the reason, and
`btm` commands that need other machines are shown by --dry-run (PLANNED).
"""

import json
import os
import shlex
import shutil

import pytest
import questions
from folders import DEMO, ROOT
from pages import sections

from btm.cli import main
from btm.cli.compose import full_key
from btm.cli.verbs import reads
from btm.data import binarised
from btm.data.documents import read
from btm.data.shards import Suite
from suites.domains import SUITES

SECTIONS = sections()
_TRAINING = "hours of training; its own test runs it at the smallest size"
NOT_RUN = {  # a command, or how it begins: why it is not run here
    "scripts/demo": "minutes; tests/scripts/test_bench_gpu.py runs its three commands",
    "scripts/test": "it runs this test",
    "scripts/setup": "installs packages; CI has run it",
    "scripts/fairseq": "installs packages; CI has run it",
    "scripts/release": "tests/scripts/test_release.py runs it",
    "scripts/slurm": "installs packages, starts services; tests/launch/test_slurm.py runs it",
    "scripts/gpu": "tests/scripts/test_bench_gpu.py runs it",
    "btm push": "a bucket, or the Hub; tests/interop/test_remote_*.py have servers",
    "btm commons": "a bucket; tests/commons/test_on_s3.py has a server",
    "experiment=commons_smoke": "tests/commons/test_smoke.py gives the commands of its section",
    "btm bench": "ten seconds of imports; tests/steps/bench runs it",
    "average.search=tasks": "as btm bench; tests/steps/bench/test_search.py runs it",
    "btm pull": "a bucket; tests/interop/test_remote_s3.py has a server",
    "btm ls forest=s3": "a bucket; tests/interop/test_remote_s3.py has a server",
    "scripts/paper": "builds a suite from packages, trains for an hour",
    "source": "changes the reader's shell",
    ".venv/bin/pip": "installs packages",
    "python scripts/commons_policy.py": "tests/scripts/test_commons_policy.py runs it",
    "python scripts/bench/apart.py": "averages of every set of experts; tests/steps/test_apart.py",
    "python scripts/bench/attacks.py": _TRAINING,
    "python scripts/bench/choosing.py": _TRAINING,
    "python scripts/bench/commons.py": "tests/scripts/test_bench_commons.py runs it",
    "python scripts/bench/commons_network.py": "a quarter of an hour, as root",
    "python scripts/bench/together.py": "minutes of four processes; tests/commons/together has rounds",
    "python scripts/bench/crash.py": _TRAINING,
    "python scripts/bench/fertility.py": "tests/scripts/test_bench_fertility.py runs it",
    "python scripts/bench/fuzz.py": _TRAINING,
    "python scripts/bench/language_trees.py": "tests/scripts/test_bench_languages.py runs it",
    "python scripts/bench/languages.py": "tests/scripts/test_bench_languages.py runs it",
    "forest=experts/roots-0": "twenty minutes; experiment=roots_smoke is the same at the smallest size",
    "forest=experts/sampled-0": "a quarter of an hour",
    "python scripts/bench/roots.py": "tests/scripts/test_bench_languages.py runs it",
    "python scripts/bench/instructions": "tests/scripts/test_bench_instructions.py runs it",
    "python scripts/smollm2.py": "downloads a model",
    "python scripts/build_corpora.py": "downloads packages",
    "python scripts/bench/lora.py": "minutes of training",
    "python scripts/bench/readers.py": "minutes of training; scripts/pykeen installs packages",
    "scripts/pykeen": "installs packages",
    "scripts/hivemind": "installs packages",
    "reader.data=snli": "Jack's questions, not ours to ship; tests/readers/test_files.py reads such files",
    "python scripts/build_instructions.py": "tests/scripts/test_build_instructions.py runs it",
}
PLANNED = {  # words of commands that are run with --dry-run: why
    "btm serve": "until it is told to stop; tests/serve/http runs it",
    "cluster=slurm": "a cluster with GPUs; tests/launch/test_slurm.py has a Slurm",
    "cluster.gpus_per_expert": "two processes; tests/train/distributed runs them",
    "fairseq.python": "a minute; tests/train/fairseq/test_training.py runs it",
    "size=smoke": "a minute; tests/paper/test_paper.py runs it",
}
SMALL = [
    *("trainer.steps=2", "seed.steps=2", "trainer.batch_size=8", "trainer.seq_len=32"),
    *("trainer.valid_tokens=64", "score.max_tokens=128", "merge.force=true"),
    *("model.config.hidden_size=32", "model.config.num_hidden_layers=1"),
    *("model.config.intermediate_size=64", "model.config.num_attention_heads=2"),
    *("model.config.num_key_value_heads=2", "distil.steps=2", "reader.epochs=1"),
    *("generate.tokens=4", "discover.sample=200"),
]
DEMO_WORDS = ["run.domains=[bible,speeches]", "eval.domains=[bible,speeches,novels]"]
OWN = ["data.vocab_size=512"]
# A driver, and a process a job, take five seconds of imports: two sections show that they do it.
AS_JOBS = ("cli.md: Where the jobs run", "README.md: Your own text")
# What a reader has done before a command, where the section does not say it.
BEFORE = {
    "btm cancel experiment=demo": [
        f"{' '.join(['run experiment=demo', *SMALL[1:11]])} trainer.steps=100000 trainer.compile=never "
        "run.domains=[wordnet] cluster=local --detach"
    ],
    "btm train expert=law cluster.gpus_per_expert=2 trainer.parallel=fsdp": [
        "branch expert=law domain=novels branch=copy"
    ],
    "btm train expert=law trainer.delta_density=0.05": [
        "branch expert=law domain=novels branch=copy"
    ],
    "btm run experiment=demo trainer.delta_density=0.05": [
        f"remove expert={expert} {word} experiment=demo"
        for expert in ("bible", "speeches")
        for word in ("--with-descendants", "--readmit")
    ],
    "btm export expert=law format=delta to=shipped/law": ["merge expert=law merge.force=true"],
    "btm train expert=law trainer.adapter=lora trainer.lora_rank=8 trainer.lora_targets=[q_proj,v_proj]": [
        "branch expert=law domain=novels branch=copy"
    ],
    "btm run experiment=demo trainer.adapter=lora": [
        f"remove expert={expert} {word} experiment=demo"
        for expert in ("bible", "speeches")
        for word in ("--with-descendants", "--readmit")
    ],
    "btm export expert=law format=lora to=shipped/law": ["merge expert=law merge.force=true"],
}


def name_of(command, table):
    """The entry of a table that a command begins with, or has among its words."""
    words = shlex.split(command)
    return next(
        (
            name
            for name in table
            if command.startswith(name) or any(word.startswith(name) for word in words)
        ),
        None,
    )


def documents(domain, split="train", limit=60):
    """The first documents of a domain of the demo."""
    found = []
    for text in read(DEMO / domain / f"{split}.jsonl.zst", "text"):
        found.append(text)
        if len(found) == limit:
            break
    return found


def write_lines(file, texts):
    """Write one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_texts(root):
    """Text as the README's section on it has it, and a domain for later."""
    for split in ("train", "valid", "test"):
        write_lines(root / f"texts/law/{split}.jsonl", documents("speeches", split))
    for number, text in enumerate(documents("bible")):
        file = root / f"texts/med/{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    write_lines(root / "texts/news.jsonl", documents("novels"))
    # Text that stands nowhere else: the demo's would be left out as what is there already.
    modules = sorted((ROOT / "btm").rglob("*.py"))[:60]
    write_lines(root / "more/perl/all.jsonl", [file.read_text() for file in modules])


def write_suite(root, called):
    """A suite with the domains of another, of the demo's text: no document of it twice."""
    suite = SUITES[called]
    sources = sorted(place.name for place in DEMO.iterdir() if place.is_dir())
    domains = (*suite.training, *suite.novel)
    each = 12 // -(-len(domains) // len(sources))
    for number, name in enumerate(domains):
        turn, source = divmod(number, len(sources))
        for split in ("train", "valid", "test"):
            texts = documents(sources[source], split, each * (turn + 1))[each * turn :]
            write_lines(root / f"{name}/{split}.jsonl", texts)
    novel = {name: {"novel": name in suite.novel} for name in domains}
    (root / "suite.json").write_text(json.dumps({"domains": novel}))


def write_questions(folder):
    """Questions in SQuAD's format, four a split."""
    folder.mkdir(parents=True)
    context = "otter: mammal with webbed feet. hawk: bird of prey. ivy: vine that climbs."
    asked = [
        {"id": word, "question": f"What is {word}?", "answers": [_found(context, answer)]}
        for word, answer in (("otter", "mammal"), ("hawk", "bird of prey"), ("ivy", "vine"))
    ]
    asked.append({"id": "none", "question": "What is rust?", "answers": [], "is_impossible": True})
    for split in ("train", "valid", "test"):
        value = {"data": [{"paragraphs": [{"context": context, "qas": asked}]}]}
        (folder / f"{split}.json").write_text(json.dumps(value))


def _found(context, text):
    return {"text": text, "answer_start": context.index(text)}


def small(words):
    """Add to the words of a command those that make it small, as far as its verb reads them."""
    verb, _ = main.parted(words)
    keys = {full_key(word) for word in words}
    by_fairseq = {"experiment=fairseq", "trainer=fairseq"} & {*words}
    extra = [word for word in SMALL if not (by_fairseq and "key_value" in word)]  # BioGPT has none
    if {"experiment=roots", "experiment=roots_smoke"} & {
        *words
    }:  # of BLOOM's class, whose keys have other names
        extra = [word for word in extra if not word.startswith("model.config.")]
    extra += DEMO_WORDS if "experiment=demo" in words or verb == "compare" else []
    extra += OWN if "data=folder" in words and "data.tokenizer" not in keys else []
    extra += ["model=pico"] if "model" in keys and "trainer=fairseq" not in words else []
    return [*words, *(word for word in extra if reads.reads(verb, full_key(word)))]


@pytest.fixture(scope="module")
def site(tmp_path_factory, prepared_demo):
    """A folder in which the demo's forest and one of the reader's own text stand."""
    root = tmp_path_factory.mktemp("site")
    (root / "data").mkdir()
    shutil.copytree(prepared_demo / "demo", root / "data" / "demo")
    write_texts(root)
    own = ["data=folder", "data.root=texts", "data.name=mine", "model=pico", *OWN]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for words in [
            ["run", "experiment=demo", "cluster=local"],
            ["run", *own, "cluster=debug"],
            ["export", "expert=seed", "to=models/base", "forest=experts/mine"],
            ["export", "expert=law", "to=models/law-lm", "forest=experts/mine"],
            ["export", "expert=med", "to=models/med-lm", "forest=experts/mine"],
        ]:
            assert main.main(small(words)) == 0, words
    return root


@pytest.fixture
def place(site, tmp_path, monkeypatch):
    """A copy of that folder, and in it."""
    root = tmp_path / "site"
    shutil.copytree(site, root)
    monkeypatch.chdir(root)
    return root


def make_room(section, root):
    """Put there what a section takes for granted, and take away what its commands make."""
    text = "\n".join(section.commands)
    if "data-bin" in text:
        suite = Suite.open(root / "data/mine")
        for domain in suite.domains():
            binarised.write(suite, domain, root / "data-bin" / domain)
    if "asked" in text:
        questions.write(root / "asked/qa.jsonl", questions.rows())
    if "texts/perl" in text:
        shutil.copytree(root / "more/perl", root / "texts/perl")
    if "data.name=mine" in text or "btm import from=models/base" in text:
        shutil.rmtree(root / "experts/mine")
        shutil.rmtree(root / "data/mine")
    if "forest=experts/theirs" in text:
        ours = "mine" if "forest=experts/mine" in text else "demo"
        shutil.copytree(root / "experts" / ours, root / "experts/theirs")
        shutil.rmtree(root / "experts/theirs/elms/law", ignore_errors=True)
    if "experts/other" in text:
        shutil.copytree(root / "experts/demo", root / "experts/other")
    if "models/law-lm]" in text:  # beside the demo's forest
        shutil.rmtree(root / "models/law-lm")
        shutil.copytree(root / "experts/demo/elms/bible", root / "models/law-lm")
    if "btm16" in text or "size=paper" in text:
        write_suite(root / "corpora/btm16", "btm16")
    if "data=roots" in text or "experiment=roots" in text:
        write_suite(root / "corpora/roots", "roots")
    if "readers" in text:
        for place in ("tests/readers/nations", "corpora/readers/graphs/nations"):
            shutil.copytree(ROOT / "tests/readers/nations", root / place)
    if ".venv-fairseq" in text and (ROOT / ".venv-fairseq").exists():
        (root / ".venv-fairseq").symlink_to(ROOT / ".venv-fairseq")
    if "serve.token_file=token" in text:
        (root / "token").write_text("0123456789abcdef" * 2)
        (root / "token").chmod(0o600)
    if "corpora/readers/qa" in text:
        write_questions(root / "corpora/readers/qa")
    for image in ("btm.sif", "btm.sqsh"):
        if image in text:
            (root / image).touch()
    if "btm/data/demo" in text:
        (root / "btm/data").mkdir(parents=True)
        (root / "btm/data/demo").symlink_to(DEMO)


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_the_commands_of_a_section_do_what_it_says(section, request, capsys):
    todo = [command for command in section.commands if name_of(command, NOT_RUN) is None]
    if not todo:
        return
    if (
        any(".venv-fairseq" in command for command in todo)
        and not (ROOT / ".venv-fairseq").exists()
        and not os.environ.get("CI")  # which has installed it: there its absence is a failure
    ):
        pytest.skip("scripts/fairseq makes .venv-fairseq")
    make_room(section, request.getfixturevalue("place"))
    for command in todo:
        before = [shlex.split(words) for words in BEFORE.get(command, [])]
        given = small(shlex.split(command)[1:])
        if given[0] == "run" and str(section) not in AS_JOBS:
            given += [] if any(word.startswith("cluster") for word in given) else ["cluster=debug"]
        given += ["--dry-run"] if name_of(command, PLANNED) else []
        for words in [*before, given]:
            code = main.main(words)
            said = capsys.readouterr()
            assert code == 0, f"{words}\n{said.err}"
            assert said.out + said.err, words


def test_the_tables_name_commands_of_the_pages_alone():
    commands = [command for section in SECTIONS for command in section.commands]
    for table in (NOT_RUN, PLANNED):
        used = {name_of(command, table) for command in commands}
        assert used - {None} == set(table)
    assert set(BEFORE) <= set(commands)
    assert len(commands) > 90, "the pages' commands are found"
