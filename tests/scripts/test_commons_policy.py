"""The policy of a participant of a commons: what each statement allows, and on which objects."""

import json
import subprocess
import sys

from folders import ROOT

KEY = "0" * 32


def run(*words):
    program = [sys.executable, ROOT / "scripts/commons_policy.py", *words]
    return subprocess.run(program, capture_output=True, text=True)


def test_a_volunteer_writes_into_one_folder_and_makes_claims():
    made = json.loads(run("s3://bucket/a/forest", KEY).stdout)["Statement"]
    by_name = {each["Sid"]: each for each in made}
    root = "arn:aws:s3:::bucket/a/forest"
    assert by_name["Own"]["Resource"] == [f"{root}/commons/people/{KEY}/*"]
    parts = ("claims", "rounds")
    assert by_name["Claim"]["Resource"] == [f"{root}/commons/{part}/*" for part in parts]
    assert by_name["Claim"]["Action"] == "s3:PutObject"
    assert by_name["Claim"]["Condition"] == {"Null": {"s3:if-none-match": "false"}}
    writing = {sid for sid, each in by_name.items() if "Put" in str(each["Action"])}
    assert writing == {"Own", "Claim"}


def test_seaweedfs_gets_a_user_whose_policy_asks_for_no_condition():
    made = json.loads(run("s3://bucket/a/forest", KEY, "--for", "seaweedfs").stdout)
    assert made["identities"] == [{"name": KEY, "credentials": [], "policyNames": [KEY]}]
    (policy,) = made["policies"]
    plain = json.loads(run("s3://bucket/a/forest", KEY).stdout)
    del plain["Statement"][-1]["Condition"]
    assert policy["name"] == KEY and json.loads(policy["content"]) == plain


def test_a_maintainer_writes_everywhere_below_the_forest():
    made = json.loads(run("s3://bucket/forest", "--maintainer").stdout)["Statement"]
    own = next(each for each in made if each["Sid"] == "Own")
    assert own["Resource"] == ["arn:aws:s3:::bucket/forest/*"]


def test_what_is_no_url_or_no_key_is_refused():
    for words in (
        ["s3://bucket", KEY],
        ["s3://bucket/x*", KEY],
        ["s3://bucket/x", "*"],
        ["s3://b/x"],
    ):
        found = run(*words)
        assert found.returncode and "wanted" in found.stderr and not found.stdout, words
