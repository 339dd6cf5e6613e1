"""Who descends from whom: shares against sums by hand, pictures that parse, labels that cannot
break out.
"""

import json
import random
import re
import shutil
import subprocess

import pytest

from btm.cli import main
from btm.forest import Forest, drawing, removal
from btm.forest.index import AVERAGE
from btm.forest.lineage import BRANCH, ELM, Key, Lineage, Node

MERMAID = re.compile(
    r"flowchart TD|"
    r'  n\d+\["(?:[A-Za-z0-9 ._()-]|#\d+;)+"\]|'
    r"  n\d+ -->\|[0-9.e-]+\| n\d+|"
    r"  classDef away stroke-dasharray: 4 4|  class n\d+(?:,n\d+)* away"
)


@pytest.fixture
def root(grown, tmp_path):
    root = shutil.copytree(grown[0].forest_root, tmp_path / "forest")
    Forest(root).branch("tales", "novels", {"speeches": 0.25, "seed": 0.75})
    return root


def graph(edges):
    """A lineage of {child: {parent: weight}}."""
    names = {*edges, *(parent for parents in edges.values() for parent in parents)}
    key = {name: Key(ELM, name, name * 3) for name in names}
    nodes = {
        key[n]: Node(key[n], parents={key[p]: w for p, w in edges.get(n, {}).items()})
        for n in sorted(names)
    }
    children = {k: {} for k in nodes}
    for node in nodes.values():
        for parent, weight in node.parents.items():
            children[parent][node.key] = weight
    return Lineage(nodes, children), key


def test_shares_in_a_diamond_add_up():
    found, key = graph({"b": {"a": 1.0}, "c": {"a": 0.5, "x": 0.5}, "d": {"b": 0.3, "c": 0.7}})
    assert found.descendants(key["a"])[key["d"]] == pytest.approx(0.3 + 0.7 * 0.5)
    assert found.ancestors(key["d"]) == pytest.approx(
        {key["b"]: 0.3, key["c"]: 0.7, key["a"]: 0.65, key["x"]: 0.35}
    )


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_those_of_every_path_walked(seed):
    rng = random.Random(seed)
    names = [f"e{i}" for i in range(12)]
    edges = {}
    for i, name in enumerate(names[2:], 2):
        parents = rng.sample(names[:i], min(i, rng.randrange(1, 4)))
        total = [rng.random() for _ in parents]
        edges[name] = {p: w / sum(total) for p, w in zip(parents, total, strict=True)}
    found, key = graph(edges)

    def walked(child, ancestor):
        if child == ancestor:
            return 1.0
        return sum(
            weight * walked(parent, ancestor) for parent, weight in edges.get(child, {}).items()
        )

    for name in names:
        below = found.descendants(key[name])
        expected = {key[n]: walked(n, name) for n in names if n != name and walked(n, name) > 0}
        assert below == pytest.approx(expected)
        above = found.ancestors(key[name])
        assert above == pytest.approx(
            {key[n]: walked(name, n) for n in names if n != name and walked(name, n)}
        )
        order = list(below)
        assert all(
            order.index(p) < order.index(c)
            for c in order
            for p in found.nodes[c].parents
            if p in below
        )
        if edges.get(name):
            roots = [n for n in above if not found.nodes[n].parents]
            assert sum(above[r] for r in roots) == pytest.approx(1.0)


def test_a_long_line_of_descent_and_a_forged_circle():
    found, key = graph({f"e{i + 1:04}": {f"e{i:04}": 1.0} for i in range(3000)})
    assert found.descendants(key["e0000"])[key["e3000"]] == 1.0
    assert len(drawing.text(found, key["e0000"]).splitlines()) > 3000
    found, key = graph({"a": {"b": 1.0}, "b": {"a": 1.0}, "c": {"a": 1.0}})
    assert set(found.descendants(key["a"])) == {
        key["b"],
        key["c"],
    }  # somebody's forgery hides nobody
    assert drawing.text(found, key["c"])


def test_of_a_real_forest(root):
    found = Lineage.of(root)
    forest = Forest(root)
    seed = Key(ELM, "seed", forest["seed"].card.sha256)
    below = found.descendants(seed)
    assert {key.kind for key in below} == {ELM, AVERAGE, BRANCH}
    assert below[Key(BRANCH, "tales", "")] == pytest.approx(1.0)
    assert all(share == pytest.approx(1.0) for share in below.values())


def test_one_that_was_deleted_by_hand_still_has_its_heirs(root):
    forest = Forest(root)
    bible = Key(ELM, "bible", forest["bible"].card.sha256)
    shutil.rmtree(root / "elms/speeches")  # tales descends through it
    found = Lineage.of(root)
    assert found.descendants(bible)[Key(BRANCH, "tales", "")] is None
    assert "what stood in between is gone" in drawing.text(found, bible)
    assert "tales" in {heir.name for heir in removal.heirs(found, bible)}


@pytest.mark.parametrize("expert", [None, "bible", "speeches", "tales"])
def test_the_pictures_are_well_formed(root, workspace, capsys, expert):
    removal.remove(Forest(root), "bible")
    words = [*workspace, f"forest={root}", *([f"expert={expert}"] if expert else [])]
    assert main.main(["lineage", *words, "lineage.format=mermaid"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(MERMAID.fullmatch(line) for line in lines), lines
    assert any("bible (removed)" in line for line in lines)
    assert main.main(["lineage", *words, "lineage.format=graphviz"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("digraph lineage {")
    if shutil.which("dot"):
        subprocess.run(["dot", "-Tsvg"], input=text, text=True, check=True, capture_output=True)


def test_text_and_json(root, workspace, capsys):
    words = [*workspace, f"forest={root}"]
    weight = Forest(root)["speeches"].card.parents["bible"].weight
    assert main.main(["lineage", *words, "expert=speeches"]) == 0
    text = capsys.readouterr().out
    assert f"bible  {weight:.4g}  ({weight:.4g})" in text
    assert "tales (branch)  0.25  (0.25)" in text
    assert "…" not in text.partition("descendants")[2]
    assert main.main(["lineage", "--json", *words, "expert=speeches"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["seed"]["share"] == pytest.approx(1.0)
    assert rows["tales"]["of"] == "descendant"
    assert main.main(["lineage", *words]) == 0
    assert capsys.readouterr().out.startswith("seed\n")
    assert main.main(["lineage", "--json", *words]) == 0
    assert main.main(["lineage", *words, "expert=speach"]) == 2
    assert "did you mean 'speeches'" in capsys.readouterr().err


def test_a_label_cannot_break_out():
    evil = 'a"]; n9 --> n1 %% `x` #quot; <b>\n\\" | é'
    found, _ = graph({evil: {"b": 1.0}})
    lines = drawing.mermaid(found, found.nodes).splitlines()
    assert all(MERMAID.fullmatch(line) for line in lines), lines
    dot = drawing.graphviz(found, found.nodes)
    labels = re.findall(r'label="((?:[^"\\\n]|\\["\\])*)"', dot)
    assert len(labels) == 3
    assert dot.count("\n") == 5
