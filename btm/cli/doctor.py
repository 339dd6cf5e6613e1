"""`btm doctor`: list versions, devices, memory, disk and extras."""

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from btm import __version__
from btm.config.schema import Config
from btm.system.extras import install

_PACKAGES = (
    "torch",
    "transformers",
    "hydra-core",
    "omegaconf",
    "submitit",
    "numpy",
    "pandas",
    "safetensors",
    "tokenizers",
)
_EXTRAS = {"pyarrow": "parquet", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_EXTRAS |= {
    "bitsandbytes": "int8",
    "gguf": "gguf",
    "sklearn": "discover",
    "fairseq_cli": "fairseq",
    "lm_eval": "eval",
    "ray": "cluster",
}


def findings(config: Config) -> list[dict[str, str]]:
    """Return one row for each finding."""
    import torch

    from btm.forest import Forest
    from btm.models.causal_lm import pick_precision

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    root = Path(config.forest_root)
    standing = next(p for p in (root, *root.absolute().parents) if p.exists())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = "cuda" if gpus else "cpu"
    rows = {
        "btm": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        **{name: version(name) for name in _PACKAGES},
        "cores": f"{cores}, torch uses {torch.get_num_threads()} threads",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory": f"{memory / 1e9:.1f} GB",
        "GPUs": ", ".join(gpus) or "none: training runs on the CPU",
        "trainer.precision=auto": pick_precision("auto", device),
        "free disk": f"{shutil.disk_usage(standing).free / 1e9:.1f} GB at {standing}",
        "forest": f"{root} stands"
        if Forest.stands(root)
        else f"none in {root}: btm run plants one",
    }
    for module, extra in _EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        rows[f"extra {extra}"] = "installed" if there else f"not installed: {install(extra)}"
    return [{"what": key, "found": value} for key, value in rows.items()]
