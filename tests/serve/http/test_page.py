"""The page at /, in a real Chromium (scripts/chromium): what a reader sees is what the API says."""

import json
import math
import os
import re
import subprocess
from pathlib import Path

import pytest
from browsing import CHROMIUM, HOME, NODE, driven
from folders import ROOT

from btm.forest import Forest
from btm.serve.http import page

TEXT = "In the beginning God created the heavens.\n\ndef get(self, key):\n    return self.é[key]\n"
TOKEN = "0123456789abcdef"
MOST = 200  # tokens that the server with a token allows
REFUSED = re.compile(r"Failed to load resource: .* (400|401) ")  # what Chromium logs of refusals


@pytest.fixture(scope="module")
def seen(browser, running, serve, grown):
    """What a reader saw who used every part of the page."""
    with serve(grown[0], token=TOKEN, max_total=MOST) as guarded:
        asked = {
            "home": str(HOME),
            "chromium": CHROMIUM,
            "url": f"{running.url}/",
            "text": TEXT,
            "long": "word " * MOST,
            "token_url": f"{guarded.url}/",
            "token": TOKEN,
            "shots": os.environ.get("BTM_SHOTS"),
        }
        words = [NODE, Path(__file__).with_name("page.mjs")]
        said = driven(words, json.dumps(asked))
    return json.loads(said.splitlines()[-1])


def scored(running, model="forest", prompt=TEXT):
    status, _, answer = running.ask("/v1/score", {"model": model, "prompt": prompt, "top": 5})
    assert status == 200
    return answer


def leads(answer, names=None):
    """The member that weighs most before each token, the first of equals."""
    names = names or list(answer["members"])
    posteriors = zip(*(answer["members"][name]["posterior"] for name in names), strict=True)
    return [names[weights.index(max(weights))] for weights in posteriors]


def number(text):
    return float(re.search(r"-?[\d.]+", text)[0])


def test_tokens_are_coloured_by_the_expert_that_weighs_most(seen, running):
    answer = scored(running)
    assert len(seen["tokens"]) == len(answer["ids"])
    assert [token["lead"] for token in seen["tokens"]] == leads(answer)
    colours = {token["lead"]: token["colour"] for token in seen["tokens"]}
    assert len(set(colours.values())) == len(colours) > 1
    assert all(colours[token["lead"]] == token["colour"] for token in seen["tokens"])


def test_colour_is_not_alone_where_another_expert_begins_to_lead(seen, running):
    found = leads(scored(running))
    marks = [token["mark"] for token in seen["tokens"]]
    begins = [at == 0 or found[at] != found[at - 1] for at in range(len(found))]
    assert [mark is not None for mark in marks] == begins
    letters = {
        lead: {mark for mark, other in zip(marks, found, strict=True) if mark and other == lead}
        for lead in found
    }
    assert all(len(own) == 1 for own in letters.values())
    assert len(set.union(*letters.values())) == len(letters)
    assert all(
        f", {lead} " in token["label"] for lead, token in zip(found, seen["tokens"], strict=True)
    )


def test_arrow_keys_move_and_the_panel_tells_what_the_api_tells(seen, running):
    answer = scored(running)
    last = len(answer["ids"]) - 1
    places = [told["at"] for told in seen["panels"]]
    assert places[:5] == [0, 1, 2, last, last - 1]
    assert places[5] < last - 1  # a line above
    for told in seen["panels"]:
        at = told["at"]
        assert told["title"] == f"Token {at + 1} of {last + 1}"
        assert number(told["mixture"]) == pytest.approx(-answer["logprobs"][at], abs=6e-4)
        assert told["experts"].keys() == answer["members"].keys()
        for name, (weight, loss) in told["experts"].items():
            member = answer["members"][name]
            assert number(loss) == pytest.approx(-member["logprobs"][at], abs=6e-4)
            assert number(weight) / 100 == pytest.approx(member["posterior"][at], abs=6e-3)
        assert len(told["likeliest"]) == len(answer["top_logprobs"][at])
    assert seen["hovered"] == f"Token 6 of {last + 1}"


def test_the_legend_sums_the_text_up(seen, running):
    answer = scored(running)
    found, count = leads(answer), len(answer["ids"])
    rows = {name: cells for name, *cells in seen["legend"]}
    assert number(rows.pop("mixture")[2]) == pytest.approx(answer["nats"] / count, abs=6e-4)
    assert rows.keys() == answer["members"].keys()
    assert seen["strip"] == len(rows)
    for name, (led, weight, nats) in rows.items():
        member = answer["members"][name]
        assert number(led) / 100 == pytest.approx(found.count(name) / count, abs=6e-3)
        assert number(weight) / 100 == pytest.approx(sum(member["posterior"]) / count, abs=6e-3)
        assert number(nats) == pytest.approx(-sum(member["logprobs"]) / count, abs=6e-4)


def test_another_rule_is_drawn_at_once(seen, running):
    answer = scored(running, "forest:simple")
    assert [token["lead"] for token in seen["simple"]["tokens"]] == leads(answer)
    weights = {number(cells[1]) for name, *cells in seen["simple"]["legend"] if name != "mixture"}
    assert len(weights) == 1  # all alike


def test_an_expert_that_is_not_ticked_leads_nothing(seen, running):
    answer = scored(running, "forest:bayes")
    names = list(answer["members"])[1:]
    assert [token["lead"] for token in seen["ticked"]["tokens"]] == leads(answer, names)
    nats = 0.0
    for at in range(len(answer["ids"])):
        members = [answer["members"][name] for name in names]
        whole = sum(member["posterior"][at] for member in members)
        mixed = sum(m["posterior"][at] * math.exp(m["logprobs"][at]) for m in members)
        nats -= math.log(mixed / whole) / len(answer["ids"])
    rows = {name: cells for name, *cells in seen["ticked"]["legend"]}
    assert number(rows["mixture"][2]) == pytest.approx(nats, abs=6e-4)
    assert "exactly their ensemble" in seen["ticked"]["note"]
    assert seen["ticked"]["held"] == "checkbox"  # the focus stays where it was


def test_text_is_written_and_then_scored(seen, running):
    written = seen["written"]
    assert written["text"].startswith("In the beginning") and written["after"] > written["before"]
    answer = scored(running, prompt=written["text"])
    assert written["after"] == len(answer["ids"])
    rows = {name: cells for name, *cells in written["legend"]}
    mean = answer["nats"] / len(answer["ids"])
    assert number(rows["mixture"][2]) == pytest.approx(mean, abs=6e-4)


def test_writing_can_be_stopped(seen, running):
    stopped = seen["stopped"]
    # Scored as one text, what was written may have fewer tokens than it was written in.
    assert 1 < stopped["tokens"] < 90
    assert stopped["tokens"] == len(scored(running, prompt=stopped["text"])["ids"])
    assert stopped["error"] == "" and stopped["focus"] == "write"
    assert running.idle()


def test_the_ticked_experts_alone_write(seen, running):
    names = [name for name, *_ in seen["legend"] if name != "mixture"]
    assert seen["some"] == f"forest[{','.join(names[1:])}]"


def test_what_the_api_refuses_is_said(seen):
    assert re.search(rf"tokens of all .* this server allows {MOST}", seen["refused"])


def test_all_can_be_done_with_the_keyboard_alone(seen, running):
    keys = seen["keys"]
    assert keys["model"] == "forest:gated" and keys["told"]["at"] == 1
    answer = scored(running, "forest:gated", "In the beginning")
    assert number(keys["told"]["mixture"]) == pytest.approx(-answer["logprobs"][1], abs=6e-4)
    assert keys["tab"] == "tab-forest"


def test_the_forest_is_drawn_as_it_stands(seen, running, grown):
    drawn, forest = seen["forest"], Forest(grown[0].forest_root)
    evaluation = json.loads(forest.paths.evaluation(None).read_text())
    assert set(drawn["head"][1:]) >= {"ensemble", *evaluation["elms"]}
    assert {row[0].removesuffix(" novel") for row in drawn["rows"]} == evaluation["shards"].keys()
    for name, *cells in drawn["rows"]:
        shard = evaluation["shards"][name.removesuffix(" novel")]
        assert name.endswith(" novel") == shard["novel"]
        value = shard["ensemble"]["perplexity"]
        assert float(cells[0]) == pytest.approx(value, rel=6e-3)
    best = [min(map(float, cells)) for _, *cells in drawn["rows"]]
    assert [float(cell) for cell in drawn["best"]] == best
    names = [row[0] for row in drawn["table"]]
    assert sorted(names) == sorted(drawn["boxes"])
    assert set(names) >= set(forest.names())
    table = {row[0]: row[1] for row in drawn["table"]}
    for elm in forest.elms():
        wanted = ", ".join(f"{p} ({w.weight:.3g})" for p, w in elm.card.parents.items()) or "–"
        assert table[elm.name] == wanted


def test_nothing_bars_a_reader_in_either_scheme(seen):
    assert seen["barriers"] == []
    light, dark, *_ = seen["papers"]
    assert light != dark


def test_a_phone_is_wide_enough(seen):
    assert seen["wide"] == []


def test_nothing_is_asked_of_others_and_nothing_goes_wrong(seen):
    assert seen["elsewhere"] == []
    assert [said for said in seen["said"] if not REFUSED.search(said)] == []


def test_a_token_is_asked_for_and_not_kept(seen, running):
    login = seen["login"]
    assert "wants a token" in login["error"] and login["after"] == "" and not login["shown"]
    assert login["tokens"] == len(scored(running)["ids"])
    assert TOKEN not in login["kept"]


def test_thirty_experts_look_different(browser):
    module = ROOT / "btm/serve/page/experts.js"
    script = f"""
        const {{ look }} = await import({json.dumps(module.as_uri())});
        console.log(JSON.stringify([...Array(30).keys()].map((at) => look(`expert ${{at}}`))));
    """
    words = [NODE, "--input-type=module", "--no-warnings", "-e", script]
    looks = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len({look["letter"] for look in looks}) == 30
    assert len({(look["colour"], look["round"]) for look in looks}) == 30


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/static/style.css", "/static/icon.svg"])
def test_files_are_sent_with_their_types_and_a_policy(running, path):
    status, headers, content = running.ask(path)
    assert status == 200 and content
    kinds = {"/": "html", "js": "javascript", "css": "css", "svg": "svg"}
    assert kinds[path.rpartition(".")[2]] in headers["content-type"]
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "name", ["..%2f..%2f..%2fpyproject.toml", "../page.py", "index.html", "none.js", "%00"]
)
def test_other_files_are_not_sent(running, name):
    status, _, answer = running.ask(f"/static/{name}")
    assert status == 404 and "error" in answer


def test_the_page_needs_no_token_and_what_it_asks_for_does(serve, grown):
    with serve(grown[0], token=TOKEN) as guarded:
        assert guarded.ask(page.ROOT)[0] == guarded.ask("/static/page.js")[0] == 200
        for path in ("/v1/forest", "/staticx", "/static", "/v1/models"):
            assert guarded.ask(path)[0] == 401


def test_an_evaluation_is_chosen_by_its_name(running):
    status, _, told = running.ask("/v1/forest")
    assert status == 200
    name = told["evaluations"][0]
    assert running.ask(f"/v1/forest?eval={name}")[2]["heat_map"]["name"] == name
    status, _, answer = running.ask("/v1/forest?eval=..%2Fcard")
    assert status == 404 and name in answer["error"]["message"]
