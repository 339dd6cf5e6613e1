"""What the README promises: its commands are valid, and the user's own text goes through in every
format.
"""

import gzip
import io
import json
import re
import shlex

import pytest
import zstandard
from folders import DEMO, ROOT

from btm.cli import compose, main
from btm.cli.verbs import VERBS

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """Every `btm …` of README and docs, as (page, command); lines that end in a backslash go on."""
    for page in PAGES:
        text = re.sub(r" *\\\n +", " ", page.read_text())
        for command in re.findall(r"^    btm (.+)$", text, re.MULTILINE):
            if "…" not in command and "(the same words" not in command:  # a part, not a command
                yield page.name, command


def links():
    for page in PAGES:
        for path in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", page.read_text()):
            yield page, path


@pytest.mark.parametrize(("page", "command"), list(commands()))
def test_commands_are_valid(page, command):
    verb, words = main.parted(shlex.split(command, comments=True))
    assert verb in VERBS
    assert {word for word in words if word.startswith("-")} <= {
        *main._FLAGS,
        *main._FLAGS_OF.get(verb, ()),
    }
    compose.compose([word for word in words if not word.startswith("-")])


@pytest.mark.parametrize(("page", "path"), list(links()), ids=str)
def test_links_lead_somewhere(page, path):
    assert (page.parent / path).exists()


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 120


def test_python_of_the_docs_runs(copy):
    """docs/python.md, on the shared forest in place of the demo's; also a second time."""
    copied = copy().forest_root
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)[1]
    names = {"wordnet": "code_python", "experts/demo": str(copied)}
    for name, there in names.items():
        assert name in code
        code = code.replace(name, there)
    for _ in range(2):
        made = {}
        exec(code, made)
        assert made["branch"].path.is_dir()
        assert dict(made["branch"].parents).keys() == {"bible", "speeches"}
        assert len(made["ensemble"].next_logp()) == made["model"].config.vocab_size


def tree_of_the_readme():
    """Every path in the section on files; an indented name lies in the folder above it."""
    folder = ""
    section = README.partition("## More")[2]
    for indent, names in re.findall(r"^    ( {0,2})(\S+(?:, \S+)*) ", section, re.MULTILINE):
        if not indent:
            folder = names
        yield folder + names if indent else names


@pytest.mark.parametrize("path", list(tree_of_the_readme()))
def test_the_file_tree_is_true(path):
    assert (ROOT / path).exists()


RESULTS = ROOT / "docs/results/demo"  # of scripts/demo, and of the `btm grow` that README shows
ROWS = {  # of the README's table: the kind of the comparison's row
    "ensemble of 8": "ensemble",
    "top-1: one expert a domain": "top-1",
    "average of all experts": "average",
    "seed (half of the tokens)": "seed",
    "dense LM": "dense",
}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/when.md"], ids=lambda page: page.name
)
@pytest.mark.parametrize("name", ROWS)
def test_the_table_of_the_demo_is_what_it_gave(name, page):
    found = json.loads((RESULTS / "compare.json").read_text())["rows"]
    (row,) = (row for row in found if row["kind"] == ROWS[name])
    (line,) = re.findall(rf"^\| {re.escape(name)} \| (.*) \|$", page.read_text(), re.MULTILINE)
    models, flops, trained, novel, over, novel_over = line.replace("*", "").split(" | ")
    assert int(models) == row["experts_run"]
    assert float(flops) == pytest.approx(row["inference_flops_per_token"], rel=2e-3)
    for scope, perplexity, ratio in (("in_domain", trained, over), ("novel", novel, novel_over)):
        assert float(perplexity) == pytest.approx(row[scope]["perplexity"], abs=0.051)
        assert float(ratio) == pytest.approx(row[scope]["ratio"], abs=6e-4)


def test_the_dense_model_with_compiled_layers_is_what_the_demo_gave():
    """The same forest bit for bit, and another dense LM."""
    rows, plain = (
        {row["kind"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]}
        for name in ("compare-compiled", "compare")
    )
    assert rows["ensemble"]["nats_per_token"] == plain["ensemble"]["nats_per_token"]
    dense, scopes = rows["dense"], ("in_domain", "novel")
    trained, novel = (f"{dense[scope]['perplexity']:.1f}" for scope in scopes)
    ratios = ", ".join(f"{rows['ensemble'][scope]['ratio']:.3f}" for scope in scopes)
    assert f"the dense LM came to {trained} and {novel} ({ratios})" in README


def test_what_is_left_beside_a_dense_model_with_a_cache_is_what_the_demo_gave():
    ratios = {}
    for name in ("compare", "compare-cache"):
        rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
        (row,) = (row for row in rows if row["kind"] == "ensemble")
        ratios[name] = [f"{row[scope]['ratio']:.3f}" for scope in ("in_domain", "novel")]
    assert json.loads((RESULTS / "compare-cache.json").read_text())["rule"]["cache"] == "ngram"
    assert f"the demo is at {' / '.join(ratios['compare-cache'])} of dense" in README
    page = " ".join((ROOT / "docs/compare.md").read_text().split())
    plain, cached = ratios["compare"], ratios["compare-cache"]
    assert f"at {plain[0]} of the dense LM in-domain and at {plain[1]} on novel" in page
    assert f"with the cache in both it is at {cached[0]} and {cached[1]}" in page


def test_what_the_text_alone_gives_is_what_the_demo_gave():
    shards = json.loads((RESULTS / "eval.json").read_text())["shards"].values()
    means = []
    for novel in (False, True):
        found = [s["by_text_alone"]["perplexity"] for s in shards if s["novel"] == novel]
        means.append(sum(found) / len(found))
    wanted = f"(uniform prior) the demo's ensemble has {means[0]:.1f} and {means[1]:.1f}"
    assert wanted in " ".join(README.split())


def test_the_domain_added_later_is_what_grow_gave():
    found = json.loads((RESULTS / "grow-code_go.json").read_text())["domains"]
    rows = {row["domain"]: row for row in found}
    forgot = rows["code_python"]
    text = " ".join(README.split())
    assert f"had perplexity {forgot['expert_alone']:.0f} on `code_python`" in text
    assert f"the forest had {forgot['before']:.1f} before and {forgot['after']:.1f} after" in text
    page = (ROOT / "docs/growing.md").read_text()
    table = re.findall(
        r"^\| (\w+)(?: \(\w+\))? \| (\S+) \| (\S+) \| (0\.\d+) \|", page, re.MULTILINE
    )
    assert len(table) == 9
    for domain, before, after, ratio in table:
        row = rows[domain]
        assert (before, after) == (f"{row['before']:.1f}", f"{row['after']:.1f}")
        assert ratio == f"{row['ratio']:.3f}"


def test_the_range_of_the_readme_is_that_of_three_suites_and_seeds():
    rows = re.findall(
        r"^\| (?:demo|far8|btm16) \| \d \| (\S+) \|", (ROOT / "docs/choosing.md").read_text(), re.M
    )
    assert len(rows) == 9
    ratios = sorted(float(ratio) for ratio in rows)
    for page in (README, (ROOT / "docs/when.md").read_text()):
        assert f"{ratios[0]:.2f} to {ratios[-1]:.2f} of the dense LM's" in " ".join(page.split())


def test_where_a_forest_loses_is_what_few_steps_gave():
    """docs/when.md repeats rows of docs/choosing.md, whose figures are docs/results/choosing's."""
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (\d of 8) \|$",
        (ROOT / "docs/when.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 4
    choosing = (ROOT / "docs/choosing.md").read_text()
    for suite, *figures in rows:
        assert f"| {suite} | forest | {' | '.join(figures)} |" in choosing


def documents(domain, split="train", limit=40):
    with (DEMO / domain / f"{split}.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line)["text"] for line in lines][:limit]


def as_lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def as_parquet(texts):
    import pyarrow as pa
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"text": texts}), sink)
    return sink.getvalue()


def write_texts(root):
    """One domain for each arrangement that the README lists."""
    splits = ("train", "valid", "test")
    files = {f"speeches/{s}.jsonl": as_lines(documents("speeches", s)) for s in splits}
    files |= {f"bible/{s}.jsonl.gz": gzip.compress(as_lines(documents("bible", s))) for s in splits}
    files |= {f"novels/{s}.parquet": as_parquet(documents("novels", s)) for s in splits}
    files |= {f"wikipedia/{i}.txt": text.encode() for i, text in enumerate(documents("wikipedia"))}
    files["wordnet.txt"] = "\n\n".join(documents("wordnet")).encode()
    files["code_python.jsonl.zst"] = zstandard.compress(as_lines(documents("code_python")))
    files["jargon.jsonl"] = as_lines(documents("jargon"))
    files["factbook.parquet"] = as_parquet(documents("factbook"))
    files["code_go/part.parquet"] = as_parquet(documents("code_go"))
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return {name.partition("/")[0].partition(".")[0] for name in files}


@pytest.mark.slow
def test_own_text_in_every_format(tmp_path, monkeypatch, capsys):
    domains = write_texts(tmp_path / "texts")
    monkeypatch.chdir(tmp_path)
    own = [
        "data=folder",
        "data.root=texts",
        "data.name=mine",
        "data.vocab_size=512",
        "score.max_tokens=256",
    ]
    small = [
        "trainer.steps=2",
        "seed.steps=2",
        "trainer.seq_len=32",
        "trainer.batch_size=4",
        "merge.force=true",
    ]
    two = ["run.domains=[wordnet,code_go]", "cluster=debug"]
    for command in (["prepare"], ["run", *two], ["eval"], ["average", "average.name=deploy"]):
        assert main.main([*command, *own, *small]) == 0, capsys.readouterr().err
    forest = tmp_path / "experts" / "mine"
    assert {path.name for path in (forest / "elms").iterdir()} == {"seed", "wordnet", "code_go"}
    result = json.loads((forest / "evals" / "mine.json").read_text())
    assert set(result["shards"]) == {f"{domain}/test" for domain in domains}
    assert (forest / "averages" / "deploy" / "model.safetensors").is_file()
