"""Four processes that plant forests of four kinds in the same places: ``python planting.py ROOT
TOKENIZER…``.

Forked from one process that has imported torch. Each writes a line for every place: what it asked
for, and whether it got that.
"""

import json
import os
import sys
import time
from pathlib import Path

PROCESSES, PLACES = 4, 4


def plant_all(root, number, tokenizers, begin):
    """Plant in each place, at the same moments as the others."""
    from transformers import LlamaConfig

    from btm.data.tokenizer import tokenizer_sha256
    from btm.errors import UserError
    from btm.forest import Forest
    from btm.system import sums

    checked = sums.checked

    def late(values):
        """Let all see that no forest stands before the first of them writes."""
        time.sleep(0.03 * (1 + number))
        return checked(values)

    sums.checked = late
    tokenizer = tokenizers[number % len(tokenizers)]
    config = LlamaConfig(hidden_size=64 * (1 + number // 2))
    for place in range(PLACES):
        time.sleep(max(0.0, begin + 0.3 * place - time.monotonic()))
        try:
            facts = Forest.create(
                root / str(place), config, tokenizer, tokenizer_sha256(tokenizer)
            ).facts
            answer = [facts["architecture"], facts["tokenizer_sha256"]]
        except UserError as error:
            answer = str(error)
        os.write(1, json.dumps([place, answer]).encode() + b"\n")  # a line at once


def main(root, *tokenizers):
    """Fork the processes and wait for them."""
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import btm.forest  # noqa: F401

    begin, children = time.monotonic() + 0.5, []
    for number in range(PROCESSES):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                plant_all(Path(root), number, [Path(t) for t in tokenizers], begin)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sys.exit(max(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
