"""Averaging: btm, mergekit, torch and safetensors' `safe_open`, each a process of its own, by
turns.

    python scripts/bench/average.py --mergekit .venv-mergekit/bin/mergekit-yaml

Before anything is timed the results are checked to be equal. Each round first measures what the
machine does at that moment: bytes from the page cache into buffers, and bytes onto the disk.
`floor` is the time that the bytes of the average would take at these two speeds, one after the
other. Memory is the peak of a process beyond that of the same interpreter with the same imports and
nothing to do.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "tie_word_embeddings": True,
}
TURN = 1 << 19  # bytes of a calibrating read


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("results/bench-average"), help="where the models lie"
    )
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--layers", type=int, default=15, help="15: 0.54 GB in float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of an environment of its own")
    parser.add_argument(
        "--run", choices=["btm", "torch", "safe_open", "nothing"], help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    if options.run:
        return run(options.run, options.folder)
    models = make(options.folder, options.models, options.layers)
    size = sum(f.stat().st_size for f in models[0].glob("*.safetensors"))
    print(f"{len(models)} models of {size / 1e9:.2f} GB, {os.cpu_count()} cores")
    peers = ["btm", "safe_open", "torch", *(["mergekit"] if options.mergekit else [])]
    seconds: dict[str, list[float]] = {name: [] for name in [*peers, "floor", "inside"]}
    memory: dict[str, int] = {}
    for name in peers:
        start(name, options)
    check(options.folder, peers)
    idle = start("nothing", options)[1]
    for _ in range(options.rounds):
        seconds["floor"].append(floor(models, size))
        for name in peers:
            took, memory[name], inside = start(name, options)
            seconds[name].append(took)
            if name == "btm":
                seconds["inside"].append(inside)
    ratios = [mine / least for mine, least in zip(seconds["inside"], seconds["floor"], strict=True)]
    print(
        f"floor {statistics.median(seconds['floor']):.2f} s, "
        f"btm's average() {statistics.median(seconds['inside']):.2f} s"
    )
    print(
        f"btm / floor: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to "
        f"{max(ratios):.2f}"
    )
    for name in peers:
        pairs = [theirs / ours for theirs, ours in zip(seconds[name], seconds["btm"], strict=True)]
        grown = (memory[name] - (idle if name == "btm" else 0)) / 1024
        print(
            f"{name:10} {statistics.median(seconds[name]):6.2f} s, "
            f"{statistics.median(pairs):5.1f} x btm's, "
            f"peak memory {grown:,.0f} MB{' above the interpreter' if name == 'btm' else ''}"
        )


def make(folder: Path, count: int, layers: int) -> list[Path]:
    """Return model folders, made if need be; parameters differ, all else is equal."""
    found = [folder / f"elm{j}" for j in range(count)]
    for j, path in enumerate(found):
        if (path / "config.json").exists():
            continue
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(j)
        values = CONFIG | {"num_hidden_layers": layers}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values), dtype=torch.float32
        )
        model.save_pretrained(path, max_shard_size="100GB")
    return found


def start(name: str, options: argparse.Namespace) -> tuple[float, int, float]:
    """Run one contender; return its seconds from start to end, its peak memory in KiB, and what it
    says it took.
    """
    shutil.rmtree(options.folder / f"out-{name}", ignore_errors=True)
    command = [sys.executable, __file__, "--run", name, "--folder", str(options.folder)]
    if name == "mergekit":
        recipe = options.folder / "mergekit.yaml"
        models = sorted(options.folder.glob("elm*"))
        entries = [
            {"model": str(m), "parameters": {"weight": 1.0 + j}} for j, m in enumerate(models)
        ]
        recipe.write_text(
            json.dumps({"models": entries, "merge_method": "linear", "dtype": "float32"})
        )
        command = [
            str(options.mergekit),
            str(recipe),
            str(options.folder / "out-mergekit"),
            "--no-copy-tokenizer",
        ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    begin = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(0.005)
    took = time.perf_counter() - begin
    assert child.stdout
    said = child.stdout.read().decode().strip().splitlines()
    if child.returncode:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    return took, peak, float(said[-1]) if name == "btm" else 0.0


def resident(pid: int) -> int:
    """Return the most memory in KiB that a process has had resident; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0
    )


def run(name: str, folder: Path) -> None:
    """Be one contender."""
    models, out = sorted(folder.glob("elm*")), folder / f"out-{name}"
    if name in ("btm", "nothing"):
        from btm.models.average import average
        from btm.system import durable

        if name == "nothing":
            return
        begin = time.perf_counter()
        with durable.publish_folder(out) as target:
            average({model: 1.0 + j for j, model in enumerate(models)}, target)
        print(time.perf_counter() - begin)
        return
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    out.mkdir()
    if name == "torch":
        parts = [load_file(model / "model.safetensors") for model in models]
        shares = torch.arange(1.0, len(parts) + 1) / sum(range(1, len(parts) + 1))
        mean = {
            key: torch.tensordot(shares, torch.stack([p[key] for p in parts]), 1)
            for key in parts[0]
        }
    else:
        handles = [safe_open(model / "model.safetensors", "pt") for model in models]
        mean = {}
        for key in handles[0].keys():  # noqa: SIM118 - it is no dict
            total = handles[0].get_tensor(key).clone()
            for j, handle in enumerate(handles[1:]):
                total.add_(handle.get_tensor(key), alpha=2.0 + j)
            mean[key] = total.div_(sum(range(1, len(handles) + 1)))
    save_file(mean, out / "model.safetensors", {"format": "pt"})
    handle = os.open(out / "model.safetensors", os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def check(folder: Path, peers: list[str]) -> None:
    """Exit unless all results are equal to 1e-6 of the largest parameter of each tensor."""
    from safetensors.numpy import load_file

    results = {
        name: {
            k: v
            for f in (folder / f"out-{name}").glob("*.safetensors")
            for k, v in load_file(f).items()
        }
        for name in peers
    }
    for name in peers[1:]:
        if results[name].keys() != results["btm"].keys():
            raise SystemExit(
                f"{name} has other tensors: {results[name].keys() ^ results['btm'].keys()}"
            )
        off = max(
            float(np.abs(mine - results[name][key]).max() / np.abs(mine).max())
            for key, mine in results["btm"].items()
        )
        print(f"btm and {name}: largest difference {off:.1e} of a tensor's largest entry")
        if off > 1e-6:
            raise SystemExit("the results differ")


def floor(models: list[Path], size: int) -> float:
    """Return the seconds that the average's bytes take at the speeds of page cache and disk,
    measured now.
    """
    files = [os.open(model / "model.safetensors", os.O_RDONLY) for model in models]
    cores = len(os.sched_getaffinity(0))

    def read(part: int) -> None:
        buffer = memoryview(bytearray(TURN))
        for offset in range(part * TURN, size, cores * TURN):
            for file in files:
                os.preadv(file, [buffer], offset)

    threads = [threading.Thread(target=read, args=(part,)) for part in range(cores)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading = time.perf_counter() - begin
    scratch = models[0].parent / "floor.bin"
    scratch.unlink(missing_ok=True)
    block = np.random.default_rng(0).bytes(TURN)
    begin = time.perf_counter()
    with scratch.open("wb", buffering=0) as out:
        for _ in range(size // TURN):
            out.write(block)
        os.fsync(out.fileno())
    writing = time.perf_counter() - begin
    scratch.unlink()
    for file in files:
        os.close(file)
    return reading + writing


if __name__ == "__main__":
    main()
