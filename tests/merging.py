"""Sixty-four processes that merge the same branches: ``python merging.py FOREST RESULTS
SEED``.

Forked from one process that has imported torch and run nothing in parallel. Some are killed at
random moments, by a timer of the kernel that counts their own CPU time: beside other work too they
have begun by then, and not ended.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

PROCESSES, KILLED, SHARE = 64, 16, 3  # every name is given to SHARE of them


def merge_all(root, names, results):
    """Merge what this process was given; note each answer."""
    from btm.errors import UserError
    from btm.forest import Forest

    forest = Forest(root)
    with open(results, "a", buffering=1) as file:  # noqa: PTH123
        for name in names:
            try:
                answer = forest.merge(forest.get_branch(name)).name
            except UserError as error:
                answer = f"refused: {error}"
            file.write(json.dumps([name, answer]) + "\n")


def main(root, results, seed):
    """Fork the processes, kill some, wait for the others."""
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401
    from transformers.models.llama import modeling_llama  # noqa: F401

    torch.set_num_threads(1)
    rng = random.Random(seed)
    names = sorted(path.name for path in (Path(root) / "branches").iterdir())
    shares = [[] for _ in range(PROCESSES)]
    for name in names:
        for process in rng.sample(range(PROCESSES), SHARE):
            shares[process].append(name)
    killed = {number: rng.uniform(0.01, 0.2) for number in rng.sample(range(PROCESSES), KILLED)}
    children = []
    for number, share in enumerate(shares):
        rng.shuffle(share)
        pid = os.fork()
        if not pid:
            code = 1
            if number in killed:
                signal.setitimer(signal.ITIMER_VIRTUAL, killed[number])
            try:
                merge_all(root, share, f"{results}/{number}.jsonl")
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    print(json.dumps(codes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
