"""A commons over slow and lossy lines: volunteers who are killed, cut off, wrong or malicious.

    scripts/s3_server
    python scripts/bench/commons_network.py bench-network          # as root

Every person is a machine of its own (network.py), with its own key, forest and text, and gives the
ordinary commands, `btm commons …`, against one SeaweedFS. Four are honest and of unequal speed (their
processes stand still for a part of each instant); one of these is killed, one cut off for a minute,
and whoever is free takes their domains over. One claims what another holds and trains on noise, the
key of one is revoked, and the charter changes the parents of one after it was submitted. The store
is killed and started again in the middle. At the end: what was decided on every claim (CSV); and
the forest's losses beside those of the same experts trained on one machine, the lines as they were
measured, and all events (JSON).
"""

import argparse
import json
import os
import random
import resource
import shutil
import string
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import seaweed
from network import HUB, Line, Network, network, slowed

from btm.cli.compose import compose
from btm.commons import layout
from btm.commons.bodies import Claim
from btm.commons.claims import name_of
from btm.commons.member import enter
from btm.commons.reviewing import waiting
from btm.commons.standing import ADMITTED, WANTED, current, standing
from btm.errors import UserError
from btm.system.json_files import Json

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "btm/data/demo"
URL = "s3://bucket/commons"
LEASE = 60  # seconds
CUT = 60  # seconds that one is cut off
DARK = 15  # seconds that the store is away
HONEST = {"ann": 1.0, "ben": 0.8, "cem": 0.5, "dora": 0.35}  # the share of time that they run
BAD = ("mal", "eve", "fay")  # malicious, revoked, of stale parents
FIRST = {
    **{"ann": "metamath", "ben": "novels", "cem": "spanish", "dora": "wordnet"},
    **{
        "mal": "pronunciation",
        "eve": "python_docs",
        "fay": "speeches",
    },  # which the experiment always wants
}
STALE = "weights={bible: 0.5, code_python: 0.5}"  # parents of fay's domain, by the first charter
SETTINGS = ["experiment=commons_smoke", "score.max_tokens=4096", "trainer.threads=1"]
SETTINGS += ["trainer.checkpoint_every=20", "trainer.log_every=50"]
OPENING = ["commons init", f"to={URL}", f"commons.lease={LEASE}", "commons.stall=900"]
GONE = ("taken over", "not claimed by your key", "is held by", "submitted, by", "admitted, by")
PATIENCE = 1500.0  # seconds until anything that is waited for


@dataclass
class Event:
    """One thing that happened."""

    seconds: float
    who: str
    what: str


@dataclass
class Town:
    """The machines and the store, and what happened on them so far."""

    folder: Path
    net: Network
    server: seaweed.Server
    steps: int
    events: list[Event] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)  # of domains, as the board has them
    running: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    begun: float = field(default_factory=time.monotonic)

    def note(self, who: str, what: str) -> None:
        """Write down and print an event."""
        self.events.append(Event(round(time.monotonic() - self.begun, 1), who, what))
        print(self.events[-1].seconds, who, what, flush=True)

    def environment(self, who: str) -> dict[str, str]:
        """The environment of somebody's commands."""
        own = {"BTM_HOME": str(self.folder / who / "home"), "PYTHONPATH": str(ROOT)}
        return self.server.environment | own | {"OMP_WAIT_POLICY": "passive"}

    def words(self, who: str, verb: str, *more: str) -> list[str]:
        """The words of a command: settings, and where this person keeps things."""
        place = self.folder / who
        words = [*verb.split(), *SETTINGS, f"trainer.steps={self.steps}"]
        words += [f"forest={place / 'forest'}", f"data.out={place / 'data'}"]
        if verb == "commons join":
            words.append(f"commons.name={who}")
        opened = verb.startswith("commons") and verb != "commons init"
        return [*words, *([f"from={URL}"] if opened else []), *more]

    def give(self, who: str, verb: str, *more: str) -> tuple[int, str]:
        """Give a command on somebody's machine; return its code, and what it said at last."""
        place = self.folder / who
        place.mkdir(exist_ok=True, parents=True)
        words = self.words(who, verb, *more)
        program = [sys.executable, "-m", "btm.cli", *words]
        with (place / "log").open("a") as log:
            print(f"\n$ btm {' '.join(words)}", file=log, flush=True)
            one = subprocess.Popen(
                self.net.words(who, program),
                env=self.environment(who),
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # each machine has its share of the cores
            )
            self.running[who] = one
            with slowed(one, HONEST.get(who, 1.0)):
                out, wrong = one.communicate()
            print(out, wrong, file=log)
        told = (out if one.returncode == 0 else wrong or out).strip()
        if one.returncode:
            last = (told.splitlines() or [""])[-1]
            self.note(who, f"{verb} {' '.join(more[:1])}: code {one.returncode}: {last}")
        return one.returncode, told

    def must(self, who: str, verb: str, *more: str, tries: int = 20) -> str:
        """Give a command until it succeeds."""
        for _ in range(tries):
            code, told = self.give(who, verb, *more)
            if code == 0:
                return told
            time.sleep(3)
        raise RuntimeError(f"{who}: {verb} {more}: {told}")


def contribute(town: Town, who: str, domain: str, text: Path) -> None:
    """Claim a domain, train on text and submit.

    A command that failed is given again, as people do, until the domain is another's.
    """
    for verb, more in (
        ("commons train", [f"data.root={text}", "commons.every=10"]),
        ("commons submit", []),
    ):
        while who not in town.dead:
            code, told = town.give(who, verb, f"domain={domain}", *more)
            if code == 0:
                break
            if any(words in told for words in GONE):
                return
            time.sleep(2)
    if who not in town.dead:
        town.note(who, f"submitted {domain}")


def live(town: Town, who: str) -> None:
    """Join, and contribute what is wanted until all of it is admitted."""
    town.must(who, "commons join")
    domain: str | None = FIRST[who]
    while who not in town.dead and set(town.states.values()) != {ADMITTED}:
        if domain is not None:
            contribute(town, who, domain, DEMO / domain)
        wanted = [each for each, state in town.states.items() if state == WANTED]
        domain = random.choice(wanted) if wanted else None
        time.sleep(0 if wanted else 2)


def once(town: Town, who: str, text: Path) -> None:
    """Join, and contribute one expert."""
    town.must(who, "commons join")
    contribute(town, who, FIRST[who], text)


def noise(folder: Path) -> Path:
    """Write text that teaches nothing: words of random letters."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for number in range(40):
        words = ("".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(1500))
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


def cheat(domain: str) -> None:
    """Claim a domain that somebody holds, and say whether that holds."""
    member = enter(compose([f"from={URL}"]))
    found = current(member.look(), domain)
    assert found is not None
    values = {"number": found[0].number + 1, "holder": member.key.fingerprint}
    claim = Claim(**{**vars(found[0]), **values})
    written = member.write(layout.claim(domain, claim.number), claim)
    now = current(member.look(), domain)
    holds = now is not None and now[0] == claim
    print(f"{'written' if written else 'refused'}, {'holds' if holds else 'does not hold'}")


def wait(until: Callable[[], object], what: str, pause: float = 0.5) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(pause)


class Store:
    """The store as its own machine sees it: nothing of it goes over a line."""

    def __init__(self, server: seaweed.Server) -> None:
        import s3fs

        known = {"key": server.access, "secret": server.secret, "endpoint_url": server.url}
        self.fs = s3fs.S3FileSystem(**known, skip_instance_cache=True, use_listings_cache=False)

    def has(self, pattern: str) -> bool:
        """Whether an object stands below the folder of the commons."""
        return bool(self.fs.glob(f"{URL.removeprefix('s3://')}/{layout.ROOT}/{pattern}"))

    def kept(self) -> dict[str, str]:
        """The tags of all objects that are written once, by name."""
        found = self.fs.find(URL.removeprefix("s3://"), detail=True)
        passing = ("/signs/", "/clock/", "/checkpoints/", f"/{layout.BOARD}")
        return {
            name: each["ETag"]
            for name, each in found.items()
            if not any(part in name for part in passing)
        }


@dataclass(frozen=True)
class Outage:
    """The store's death: objects that are written once and stood before, and those of them lost."""

    before: int
    lost: list[str]
    seconds: float  # from the kill until it answered again


def happen(town: Town, store: Store) -> Outage:
    """Let everything go wrong that shall, while volunteers work; return the store's outage."""

    def uploaded(domain: str) -> bool:
        return store.has(f"people/*/work/{domain}/1/checkpoints/*.json")

    wait(lambda: uploaded(FIRST["ann"]), "ann's checkpoint")
    town.dead.add("ann")
    town.running["ann"].kill()
    town.note("ann", "killed")
    wait(lambda: store.has(f"claims/{FIRST['ben']}/1.json"), "ben's claim")
    wait((town.folder / "mal/home/commons-key.pem").exists, "mal's key")
    program = [sys.executable, __file__, "x", "--cheat", FIRST["ben"]]
    said = subprocess.check_output(
        town.net.words("mal", program), env=town.environment("mal"), text=True
    )
    town.note("mal", f"claims {FIRST['ben']}, which ben has: {said.strip()}")

    wait(lambda: uploaded(FIRST["cem"]), "cem's checkpoint")
    before = store.kept()
    town.server.kill()
    town.note("store", "killed")
    killed = time.monotonic()
    time.sleep(DARK)
    town.server.start()
    away = time.monotonic() - killed
    town.note("store", "started")
    after = store.kept()
    lost = [name for name, tag in before.items() if after.get(name) != tag]

    town.net.cut("cem")
    town.note("cem", "cut off")
    time.sleep(CUT)
    town.net.mend("cem")
    town.note("cem", "joined again")

    for who in ("eve", "fay"):
        made = f"people/*/work/{FIRST[who]}/1/submission.json"
        wait(partial(store.has, made), f"{who}'s submission")
    key = json.loads(town.must("eve", "commons join", "--json"))["key"]
    town.must("boss", "commons revoke", f"commons.revoked={key}")
    town.note("boss", "revoked eve's key")
    town.must("boss", *OPENING, wanted(town, FIRST["fay"]))
    town.note("boss", "the charter wants other parents for fay's domain")
    return Outage(len(before), lost, round(away, 1))


def wanted(town: Town, *domains: str) -> str:
    """The word that asks for domains."""
    tokens = town.steps * 8 * 64  # batch_size, seq_len of the experiment
    return f"commons.wanted={{{', '.join(f'{domain}: {tokens}' for domain in domains)}}}"


def play(town: Town) -> Outage:
    """Play the whole scene; return the store's outage."""
    others = [domain for domain in FIRST.values() if domain != FIRST["fay"]]
    town.must("boss", *OPENING, wanted(town, *others))
    town.must("boss", *OPENING, wanted(town, FIRST["fay"]), STALE)
    town.note("boss", "opened")
    decides = threading.Event()
    texts = {"mal": noise(town.folder / "mal/texts")}
    work = [threading.Thread(target=watch, args=(town, decides))]
    work += [threading.Thread(target=live, args=(town, who)) for who in HONEST]
    for who in BAD:
        text = texts.get(who, DEMO / FIRST[who])
        work.append(threading.Thread(target=once, args=(town, who, text)))
    for each in work:
        each.daemon = True
        each.start()
    outage = happen(town, Store(town.server))
    decides.set()
    for each in work:
        each.join()
    return outage


def watch(town: Town, decides: threading.Event) -> None:
    """Look at the board for everybody, every few seconds; and admit what waits, once that is on."""
    os.environ.update(town.environment("boss"))
    member = None
    while set(town.states.values()) != {ADMITTED}:
        time.sleep(3)
        try:
            member = member or enter(compose([f"from={URL}"]))
            snapshot, now = member.look(), member.now()
        except UserError:
            continue  # the store is away
        domains = snapshot.charter.wanted
        town.states = {each: standing(snapshot, each, now).state for each in domains}
        if decides.is_set() and waiting(snapshot, None):
            code, told = town.give("boss", "commons admit", "--json")
            for row in json.loads(told) if code == 0 else []:
                town.note("boss", f"{row['verdict']} {row['domain']}: {row['reason']}")


def claims(town: Town) -> pd.DataFrame:
    """List the fate of every claim, in the order of domains and numbers."""
    os.environ.update(town.environment("boss"))
    member = enter(compose([f"from={URL}"]))
    snapshot = member.look()
    rows = []
    for domain, found in sorted(snapshot.claims.items()):
        for claim, _ in found:
            work = layout.Work(claim.holder, domain, claim.number)
            verdict = snapshot.verdicts.get(work)
            row: dict[str, object] = {"domain": domain, "claim": claim.number}
            row["who"] = name_of(snapshot, claim.holder).split()[0]
            row |= {"speed": claim.speed, "tokens": claim.tokens, "begun": claim.begun}
            row["submitted"] = snapshot.work(claim).submitted is not None
            row |= {"verdict": "", "reason": ""}
            if verdict is not None:
                row["verdict"] = "admitted" if verdict[0].admitted else "rejected"
                row["reason"] = verdict[0].reason
            rows.append(row)
    return pd.DataFrame(rows)


def plant(town: Town) -> None:
    """Train all experts on one machine, and give the maintainer the forest without most of them.

    What a run before this one trained there stays.
    """
    rounds = [["bible", "code_python", *FIRST.values()]]
    if not (town.folder / "one/forest/evals").exists():
        town.must("one", "run", "cluster=debug", f"run.rounds={json.dumps(rounds)}", tries=1)
    for part in ("forest", "data"):
        shutil.copytree(town.folder / "one" / part, town.folder / "boss" / part)
    boss = town.folder / "boss/forest"
    for gone in [*(f"elms/{domain}" for domain in FIRST.values()), "evals", "scores"]:
        shutil.rmtree(boss / gone)


def losses(town: Town, who: str) -> dict[str, float]:
    """The ensemble's loss in nats/token on the test text of every domain of the suite."""
    (file,) = (town.folder / who / "forest/evals").glob("*.json")
    shards = json.loads(file.read_text())["shards"]
    return {
        name.removesuffix("/test"): each["ensemble"]["nats_per_token"]
        for name, each in shards.items()
        if name.endswith("/test")
    }


def report(town: Town, outage: Outage, line: dict[str, float]) -> Json:
    """Sum up the losses and the events."""
    seconds = round(town.events[-1].seconds)
    for verb in (["verify", "--full"], ["score"], ["eval"]):
        town.must("boss", *verb, tries=1)
    commons, one = (losses(town, who) for who in ("boss", "one"))
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)

    def means(names: list[str]) -> dict[str, float]:
        both = {"commons": commons, "one machine": one}
        return {
            who: round(sum(all_[n] for n in names) / len(names), 4) for who, all_ in both.items()
        }

    return {
        "lines": {"way": town.net.way, "asked": vars(town.net.line), "measured": line},
        "steps": town.steps,
        "seconds": seconds,
        "CPU seconds of its commands": round(cpu.ru_utime + cpu.ru_stime),
        "store": {
            "objects before": outage.before,
            "of these lost": outage.lost,
            "seconds away": outage.seconds,
        },
        "nats/token, mean of all domains": means(list(one)),
        "nats/token, mean of the contributed": means(list(FIRST.values())),
        "commons less one machine, by domain": {n: round(commons[n] - one[n], 4) for n in one},
        "events": [vars(each) for each in town.events],
    }


def main() -> None:
    """Play it, and write down what came out."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("--steps", type=int, default=100, help="of an expert")
    words.add_argument("--out", type=Path, default=ROOT / "docs/results/commons/network")
    words.add_argument("--cheat", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.cheat:
        return cheat(asked.cheat)
    folder = asked.folder.resolve()
    people = [*HONEST, *BAD, "boss", "one"]
    with network(people, Line()) as net, seaweed.serving(folder / "server", HUB) as server:
        town = Town(folder, net, server, asked.steps)
        plant(town)
        line = net.measure("ann")
        town.begun = time.monotonic()
        outage = play(town)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        made = claims(town)
        made.to_csv(asked.out.with_suffix(".csv"), index=False)
        print(made.to_string())
        found = report(town, outage, line)
    asked.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "events"}, indent=1))


if __name__ == "__main__":
    main()
