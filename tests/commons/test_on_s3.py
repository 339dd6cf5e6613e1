"""A commons on a real S3 server, from init to the last verdict: one volunteer killed, one revoked,
one with a stale branch, one who sends another's expert.
"""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from folders import DEMO, ROOT, uncovered
from people import Town, submit

from btm.cli.compose import compose
from btm.cli.main import main
from btm.commons import audit, charter, claims, keys, layout
from btm.commons.bodies import SUBMITTED
from btm.commons.claims import Holding
from btm.commons.keeping import Keeper
from btm.commons.member import AUDIT, Member, enter, remember
from btm.errors import UserError
from btm.forest import Forest
from btm.interop.remote import urls
from btm.interop.remote.manifest import Content
from btm.interop.remote.places import open_place
from btm.system import sums
from commons_policy import policy, seaweedfs

URL = "s3://bucket/commons"
SMALL = [
    *("trainer.batch_size=8", "trainer.seq_len=64", "trainer.threads=1", "trainer.compile=never"),
    *("trainer.checkpoint_every=2", "trainer.valid_tokens=512", "score.max_tokens=1024"),
]
STEP = 8 * 64  # tokens
LONG = 40 * STEP  # which a volunteer is killed in
ADA = keys.make()  # whose credentials a policy binds
USERS = [  # of the server of this module, with the policies of scripts/commons_policy.py
    seaweedfs("maintainer", policy("bucket", "town", [], conditional=False)),
    seaweedfs("ada", policy("bucket", "town", [ADA.fingerprint], conditional=False)),
    seaweedfs("conditional", policy("bucket", "town", [ADA.fingerprint])),
]


class People:
    """Everybody with a home, a forest and text of their own; their commands run here."""

    def __init__(self, root, monkeypatch, capsys):
        self.root, self.monkeypatch, self.capsys = root, monkeypatch, capsys

    def words(self, who, verb, *more, domain=None):
        words = ["commons", verb, *more]
        if who != "boss" and verb in ("join", "train", "submit"):
            words += [f"forest={self.root / who / 'forest'}"]
            words += [] if verb == "submit" else SMALL[:5]
        if verb == "train":
            words += [*SMALL[5:], f"data.out={self.root / who / 'data'}", "commons.every=0"]
            words += [f"data.root={DEMO / domain}", "merge.force=true"]
        return words + ([f"domain={domain}"] if domain else [])

    def register(self, who):
        """Do as join, but for the measurement."""
        self.monkeypatch.setenv("BTM_HOME", str(self.root / who / "home"))
        member = enter(compose([f"from={URL}"]), make_key=True)
        member.register(who)
        return member

    def __call__(self, who, verb, *more, domain=None, code=0):
        self.monkeypatch.setenv("BTM_HOME", str(self.root / who / "home"))
        self.capsys.readouterr()
        found = main(self.words(who, verb, *more, domain=domain))
        out = self.capsys.readouterr()
        assert found == code, out.err
        return out.out if code == 0 else out.err.splitlines()[-1]


def wait(until, seconds=300, pause=0.3):
    deadline = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < deadline
        time.sleep(pause)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_wanted_domain_is_admitted_once(s3, copy, tmp_path, monkeypatch, capsys):
    people, boss = People(tmp_path, monkeypatch, capsys), Forest(copy().forest_root)
    for gone in ("elms/speeches", "averages"):
        shutil.rmtree(boss.root / gone)
    home = [f"forest={boss.root}"]
    bounds = "commons.gate={layer_z: 1e3, norm_ratio: 1e3, harm: 1, own_margin: 0}"  # of few steps
    opening = [f"to={URL}", *home, "commons.lease=3", "commons.stall=60", bounds]
    people("boss", "init", *opening, f"commons.wanted={{novels: {LONG}}}")
    # Of two seats Ben will be the only one to come.
    rules = ["commons.volunteers=2", f"commons.round_tokens={2 * STEP}"]
    wanted = [*opening, *rules, f"commons.wanted={{speeches: {4 * STEP}}}"]
    people("boss", "init", *wanted)

    # Ann is killed as she trains; Ben takes over what she uploaded, once her lease is over.
    people("ben", "join", f"from={URL}", "commons.name=ben")
    remember(people.register("ann"), speed=1000.0)
    slowly = people.words("ann", "train", f"from={URL}", domain="novels")
    environment = uncovered() | {"PYTHONPATH": str(ROOT)}
    uploaded = f"bucket/commons/{layout.ROOT}/people/*/work/novels/1/checkpoints/*.json"
    with subprocess.Popen([sys.executable, "-m", "btm.cli", *slowly], env=environment) as running:
        try:
            wait(lambda: s3.glob(uploaded) or running.poll() is not None, pause=0.05)
        finally:
            running.send_signal(signal.SIGKILL)
    wait(lambda: is_free(people, "ben"))
    joined = json.loads(people("ben", "join", f"from={URL}", "--json", domain="novels"))
    claim = joined["claim"]
    assert claim["number"] == 2 and 0 < claim["begun"] < claim["tokens"] == LONG
    people("ben", "train", domain="novels")
    people("ben", "submit", domain="novels")
    mine = Forest(tmp_path / "ben/forest")["novels"].card
    assert mine.steps * STEP == claim["tokens"] - claim["begun"]
    stale = people("ann", "submit", domain="novels", code=2)
    assert "not claimed by your key" in stale

    # Eve sends Ben's expert as hers, and her key is revoked; Cem's branch is stale by then.
    eve = send_copy(people, s3, "eve")
    people("boss", "revoke", *home, f"commons.revoked={eve}")
    time.sleep(2)
    send_copy(people, s3, "cem")
    people("boss", "init", *wanted, "weights={bible: 0.5, code_python: 0.5}")
    words = ["--json", *home, "score.max_tokens=1024"]
    done = {row["holder"]: row for row in json.loads(people("boss", "admit", *words))}
    reasons = sorted(row["reason"] for row in done.values())
    assert reasons == ["", "revoked-key", "stale-parent"] and done[eve]["reason"] == "revoked-key"

    # As if the maintainer had been killed between the merge and the verdict.
    s3.rm(s3.glob("bucket/commons/commons/verdicts/novels/2/*"))
    (row,) = json.loads(people("boss", "admit", *words))
    assert (row["domain"], row["verdict"], row["reason"]) == ("novels", "admitted", "")

    # Ben does what is left, from the average of two experts that the charter wants by now.
    people("ben", "join", f"from={URL}", domain="speeches")
    people("ben", "train", domain="speeches")
    people("ben", "submit", domain="speeches")
    seats = {row["domain"]: row["note"] for row in json.loads(people("ben", "status", "--json"))}
    assert set(seats) == {"novels", "speeches"}
    (row,) = json.loads(people("boss", "admit", *words))
    assert (row["domain"], row["verdict"]) == ("speeches", "admitted")
    theirs = Forest(tmp_path / "ben/forest")["speeches"].card
    assert "trained by 1 volunteers in 2 rounds" in " ".join(theirs.notes)
    assert {"novels", "speeches"} <= set(boss.names())
    said = [next(n for n in boss[d].card.notes if "by" in n) for d in ("novels", "speeches")]
    assert said[0].startswith("contributed by ben (key ") and said[1].startswith(said[0])
    assert said[1].endswith(f") {4 * STEP:,} tokens")
    assert main(["verify", *home, "--full"]) == 0
    assert {p.split("/")[-2] for p in s3.glob("bucket/commons/elms/*/manifest.json")} == {
        *("seed", "bible", "code_python", "novels", "speeches")
    }
    admitted = people("boss", "status", "--json")
    assert [row["state"] for row in json.loads(admitted)] == ["admitted", "admitted"]
    page = s3.cat_file(f"bucket/commons/{layout.BOARD}").decode()
    assert "2 of 2 experts admitted" in page and "ben (" in page and "<script" not in page

    # Ben takes his expert back: it goes at the store and in the forest.
    people("ben", "leave", "--withdraw", "commons.reason=over", domain="novels")
    people("boss", "remove", *home, domain="novels")
    assert "novels" not in boss and not s3.glob("bucket/commons/elms/novels/*/*.*")
    said = [entry.event for entry in audit.verify(boss.root / AUDIT)]
    assert said[:3] == ["charter"] * 2 + ["revoked"] and sorted(said[3:]) == [
        *("admitted", "admitted", "admitted", "charter", "rejected", "rejected", "removed")
    ]
    nothing_secret(s3, tmp_path)


def is_free(people, who):
    rows = json.loads(people(who, "status", "--json"))
    return next(row["state"] for row in rows if row["domain"] == "novels") == "wanted"


def send_copy(people, s3, who):
    """Claim speeches, and send Ben's difference for it; return the fingerprint of the sender."""
    member = people.register(who)
    claim = claims.take(member, "speeches", 4 * STEP, 1.0)
    work = layout.Work(claim.holder, claim.domain, claim.number)
    (source,) = s3.glob("bucket/commons/commons/people/*/work/novels/2/submitted")
    for name in SUBMITTED:
        s3.copy(f"{source}/{name}", f"bucket/commons/{work.submitted(name)}")
    submit(member, claim)
    return claim.holder


def nothing_secret(s3, root):
    """No private key in any object or file but its own."""
    secrets = []
    for file in root.glob("*/home/*.pem"):
        assert file.stat().st_mode & 0o777 == 0o600
        secrets += file.read_text().splitlines()[1:2]
    assert len(secrets) == 5
    places = [p for p in root.rglob("*.json") if p.is_file()]
    texts = [s3.cat_file(name) for name in s3.find("bucket/commons") if name.endswith("json")]
    texts += [place.read_bytes() for place in places]
    assert not any(secret.encode() in text for secret in secrets for text in texts)


@pytest.mark.slow
def test_a_store_that_dies_loses_no_claim(s3, s3_server, copy, tmp_path, monkeypatch, capsys):
    """The keeper asks again until the store is back, and its claim holds."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    people, boss = People(tmp_path, monkeypatch, capsys), Forest(copy().forest_root)
    url = "s3://bucket/other"
    opening = [f"to={url}", f"forest={boss.root}", "commons.wanted={novels: 5120}"]
    people("boss", "init", *opening, "commons.lease=30")
    member, said = enter(compose([])), []
    claim = claims.take(member, "novels", 5120, 1.0)
    holding = Holding(member, claim)
    keeper = Keeper(holding, 1e9, said.append)
    monkeypatch.setattr("btm.commons.keeping._A_LEASE", 100)
    keeper.start()
    try:
        s3_server.kill()
        wait(lambda: said)
        s3_server.start()
        wait(lambda: len(said) > 1)
    finally:
        keeper.stop()
    assert "training goes on" in said[0] and "the claim holds" in said[1]
    assert keeper.lost is None and claims.own(member, member.look(), "novels") == claim


@pytest.mark.slow
def test_a_policy_lets_a_volunteer_take_part_and_write_nowhere_else(
    s3, s3_server, monkeypatch, tmp_path
):
    def place(user):
        for name, value in s3_server.credentials_of(user).items():
            monkeypatch.setenv(name, value)
        found = open_place(urls.read("s3://bucket/town", "from"))
        found.stats(layout.ROOT)  # it reads who we are at its first request
        return found

    town = Town(place("maintainer"))  # publishes the charter
    ben = town.volunteer("ben")
    s3.pipe_file("bucket/other/secret", b"x")

    # All that taking part takes.
    ada = Member(place("ada"), ADA, charter.require(town.place))
    ada.register("ada")
    claim = claims.take(ada, "law", 1000, 1.0)
    holding = Holding(ada, claim)
    for _ in range(3):
        holding.beat()
    assert set(ada.place.stats(f"{holding.work.folder}/signs")) == {"2.json", "3.json"}
    file = tmp_path / "file"
    file.write_bytes(b"weights")
    content = Content(sums.file_sha256(file), 7)
    ada.place.send(file, holding.work.submitted("file"), content, lambda more: None)
    work = submit(ada, claim)
    assert town.maintainer.look().works[work].submitted is not None
    assert ada.place.read(layout.charter(1), 1 << 16) is not None
    assert ada.place.create(layout.claim("law", 1), b"another") is False

    # And nothing else: not one of these was written, deleted or read.
    theirs = layout.person(ben.key.fingerprint)
    refused = [
        lambda: ada.place.put(theirs, b"mine"),
        lambda: ada.place.delete(theirs),
        lambda: ada.place.put(f"commons/people/{ADA.fingerprint}0/person.json", b""),
        lambda: ada.place.create(layout.charter(2), b"mine"),
        lambda: ada.place.create(layout.verdict("law", 1, ADA.fingerprint), b"mine"),
        lambda: ada.place.create(layout.revoked(ben.key.fingerprint), b"mine"),
        lambda: ada.place.put(layout.BOARD, b"mine"),
        lambda: ada.place.send(file, "elms/law/file", content, lambda more: None),
        lambda: ada.place.delete(layout.claim("law", 1)),
        lambda: open_place(urls.read("s3://bucket/other", "from")).read("secret", 9),
        lambda: open_place(urls.read("s3://bucket/other", "from")).put("more", b""),
        # This server does not know the condition of other servers' policies, and refuses.
        lambda: place("conditional").create(layout.claim("med", 1), b"mine"),
    ]
    before = s3.find("bucket", detail=True)
    for attempt in refused:
        with pytest.raises(UserError, match="access denied"):
            attempt()
    after = s3.find("bucket", detail=True)
    assert {name: each["ETag"] for name, each in before.items()} == {
        name: each["ETag"] for name, each in after.items()
    }
