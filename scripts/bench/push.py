"""The speed of `btm push` beside a copy by s3fs, and pushes that are killed at random moments.

    scripts/s3_server
    python scripts/bench/push.py FOLDER --mib 512 --rounds 5 --kills 100

FOLDER gets an S3 server on loopback and a forest of one ELM with so many MiB of weights. Speed: in
turn, `btm push` of the ELM and `s3fs put` of the very same files, each into an empty place, in one
process that has imported all it needs; MB/s, and the median of the ratios. Kills: a push (or with
--pull a pull) of the ELM in a process of its own, SIGKILL after a time drawn at random, until it
ends well; after each kill nothing of the ELM may show, and in the end all must be there, bit for
bit. The exit code is 1 where something showed or was lost.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from seaweed import BUCKET, Server, serving
from transformers import LlamaConfig, LlamaForCausalLM

import btm.data
from btm.cli.compose import compose
from btm.data.documents import read
from btm.data.tokenizer import train_tokenizer
from btm.forest import Forest
from btm.interop import formats, remote
from btm.interop.remote import listing, places, urls

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path(btm.data.__file__).parent / "demo"
WIDTH = 1024


def main() -> int:
    """Measure, kill, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mib", type=int, default=512, help="of weights, for the speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--kill-mib", type=int, default=64, help="of weights, for the kills")
    parser.add_argument("--pull", action="store_true", help="kill pulls, not pushes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with serving(asked.folder / "server") as server:
        os.environ.update(server.credentials)
        if asked.rounds:
            speed(plant(asked.folder, asked.mib), asked.rounds)
        if not asked.kills:
            return 0
        work = Killed(plant(asked.folder, asked.kill_mib), server, asked.folder, asked.pull)
        return work.until_done(asked.kills, random.Random(asked.seed))


def plant(folder: Path, mib: int) -> Forest:
    """Make a forest whose seed has about `mib` MiB of random weights, once."""
    root = folder / f"forest-{mib}"
    if Forest.stands(root):
        return Forest(root)
    texts = list(read(DEMO / "bible" / "train.jsonl.zst", "text"))[:20]
    source = folder / f"model-{mib}"
    shutil.rmtree(source, ignore_errors=True)
    tokenizer = folder / f"tokenizer-{mib}"
    shutil.rmtree(tokenizer, ignore_errors=True)
    train_tokenizer((str(text) for text in texts), tokenizer, 512)
    layer = 4 * (4 * WIDTH**2 + 3 * WIDTH * 2 * WIDTH)  # bytes
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=max(1, round(mib * 2**20 / layer)),
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(source)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, source / file.name)
    formats.import_model(compose([f"from={source}", f"forest={root}"]))
    shutil.rmtree(source)
    return Forest(root)


def speed(forest: Forest, rounds: int) -> None:
    """Print MB/s of both in each round, and their ratio."""
    fs = client()
    elm = forest["seed"].path
    size = sum(file.stat().st_size for file in elm.iterdir())
    ratios = []
    for number in range(rounds):
        config = compose([f"forest={forest.root}", "expert=seed", f"to=s3://{BUCKET}/push"])
        pair: dict[str, Callable[[], Any]] = {
            "btm push": lambda config=config: remote.push(config),  # type: ignore[misc]
            "s3fs put": lambda: client().put(str(elm), f"{BUCKET}/copy/", recursive=True),
        }
        rates = {}
        # In turn first and second: the server slows down as its volumes fill.
        for name in list(pair)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            pair[name]()
            rates[name] = size / 1e6 / (time.perf_counter() - begun)
        for place in ("push", "copy"):
            fs.rm(f"{BUCKET}/{place}", recursive=True)
        ratios.append(rates["btm push"] / rates["s3fs put"])
        said = ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in sorted(rates.items()))
        print(
            f"round {number + 1}, {size / 1e6:.0f} MB: {said}, ratio {ratios[-1]:.2f}", flush=True
        )
    print(f"median ratio {statistics.median(ratios):.2f}")


def client() -> Any:
    """Open the server as s3fs does by itself."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


class Killed:
    """Pushes or pulls of one ELM that are killed at random moments."""

    def __init__(self, forest: Forest, server: Server, folder: Path, pulls: bool) -> None:
        self.forest, self.server, self.pulls = forest, server, pulls
        self.target = folder / "pulled"
        self.url = f"s3://{BUCKET}/killed"
        verb = ["push", f"forest={forest.root}", f"to={self.url}"]
        if pulls:
            remote.push(compose([*verb[1:], "expert=seed"]))
            verb = ["pull", f"forest={self.target}", f"from={self.url}"]
        self.words = [sys.executable, "-m", "btm.cli", *verb, "expert=seed"]
        self.bad = 0

    def until_done(self, kills: int, draw: random.Random) -> int:
        """Kill `kills` times, beginning anew whenever the work was done before its kill came."""
        begun = time.monotonic()
        self.clear()
        self.run(None)
        whole, done, finished = time.monotonic() - begun, 0, 0
        self.clear()
        while done < kills:
            # A push imports for a second before it does anything; kills are to hit its work.
            if self.run(draw.uniform(0.4, 1.1) * whole):
                finished += 1
                self.check_whole()
                self.clear()
                continue
            done += 1
            self.check_killed()
        self.run(None)
        self.check_whole()
        what = "pulls" if self.pulls else "pushes"
        print(
            f"{done} {what} killed at random within {whole:.1f} s; {finished + 1} ended well; "
            f"{self.bad} times something showed half or was lost"
        )
        return 1 if self.bad else 0

    def run(self, seconds: float | None) -> bool:
        """Run the command, killed after `seconds`; return whether it ended well before."""
        environment = self.server.environment | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            self.words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return False
        if process.returncode:
            self.fault(said.decode())
        return True

    def check_killed(self) -> None:
        """Whatever shows must be whole: the ELM is not there, or all of it is."""
        if self.pulls:
            if Forest.stands(self.target) and "seed" in Forest(self.target):
                self.check_whole()
            return
        place = places.open_place(urls.read(self.url, "to"))
        for made in listing.manifests_of(place):
            stand = place.sizes(made.folder)
            if any(stand.get(name) != content.size for name, content in made.files.items()):
                self.fault(f"{made.home} shows, and is not whole")

    def check_whole(self) -> None:
        """The ELM that came of it must be the one that was sent."""
        wanted = self.forest["seed"].card.sha256
        if not self.pulls:
            remote.pull(compose([f"forest={self.target}", f"from={self.url}", "expert=seed"]))
        if Forest(self.target)["seed"].card.sha256 != wanted:
            self.fault("other weights came than were sent")

    def clear(self) -> None:
        """Begin anew: nothing there, or nothing here."""
        shutil.rmtree(self.target, ignore_errors=True)
        fs = client()
        if not self.pulls and fs.exists(self.url):
            fs.rm(self.url, recursive=True)

    def fault(self, text: str) -> None:
        """Count and print what is wrong."""
        self.bad += 1
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
