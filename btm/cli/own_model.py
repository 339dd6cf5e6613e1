"""The words of a command on an architecture of one's own: model.config.KEY=…, model.file=…"""

from collections.abc import Collection
from pathlib import Path

from btm.config.training import ModelConfig
from btm.errors import UserError

_CONFIG = "model.config"


def settle(model: ModelConfig, named: Collection[str], bundles: Path) -> None:
    """Take out of `model` the fields of its bundle that are of another type than the user's.

    `named` are the keys that the user gave, `bundles` is the folder of what model= chooses from.
    Raises `UserError` where model.file overrides a field that the user gave.
    """
    given = sorted(word for word in named if word == _CONFIG or word.startswith(f"{_CONFIG}."))
    if not given:
        return
    if model.file is not None:
        raise UserError(
            f"{given[0]} has no effect beside model.file={model.file}: change that file, or leave "
            "one of the two out (model.file=null)"
        )
    from omegaconf import OmegaConf

    bundle = bundles / f"{model.name}.yaml"
    base = dict(OmegaConf.load(bundle).config) if bundle.is_file() else {}
    wanted = model.config.get("model_type")
    if wanted in (None, base.get("model_type")):
        return
    from btm.models.configs import has_field

    inherited = {key for key, value in base.items() if model.config.get(key) == value}
    inherited -= {word.removeprefix(f"{_CONFIG}.") for word in given}
    model.config = {
        key: value
        for key, value in model.config.items()
        if key not in inherited or has_field(str(wanted), key)
    }
