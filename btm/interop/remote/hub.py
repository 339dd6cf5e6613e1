"""A model as a repository of the Hugging Face Hub: ``btm push to=hf://OWNER/NAME``.

What goes there is what `btm export` writes: safetensors, config, tokenizer, card and a README whose
metadata are checked, and no code. The client library uploads files that the Hub has not (by
sha256), then all appear with one commit, on top of the commit that was looked at: so nothing half
shows, and of two pushers one wins.
"""

from pathlib import Path
from typing import Any

from btm.config.schema import Config
from btm.errors import UserError, first_line
from btm.forest import ELM, Forest, Terms
from btm.forest.models import derived_of
from btm.interop import export
from btm.interop.remote.urls import Url
from btm.models.files import README
from btm.report import Reporter, quiet
from btm.system import durable, sums

_OF_THE_HUB = {".gitattributes", README}  # what a repository may have before anybody pushed


def push(config: Config, url: Url, models: list[ELM], reporter: Reporter = quiet) -> str:
    """Push one model to the Hub, and return its state: pushed, replaced or stands.

    A repository that is not there is made, private. Raises `UserError` for more than one model, a
    repository that holds another and no push.replace=true, or whatever the Hub refuses.
    """
    if len(models) != 1 or (config.expert is None and derived_of(config) is None):
        raise UserError(
            f"{url}: a repository holds one model: give expert=, average=, student= or moe="
        )
    if config.push.kind != "full":
        raise UserError(
            f"push.as={config.push.kind}: a repository holds whole models; leave it out"
        )
    scratch = durable.scratch_folder(Forest(config.forest_root).root)
    try:
        folder, terms = scratch / models[0].name, Terms.of_config(config.card)
        force, path = config.export.force, models[0].path
        export.card_of(path, terms, force=force, say=reporter.line)
        export.export(path, folder, terms=terms, force=force, alive=reporter.alive)
        check_card(folder / README)
        return _commit(config, url, folder, models[0].name)
    finally:
        durable.remove_folder(scratch)


def check_card(readme: Path) -> None:
    """Raise `UserError` unless the metadata of a model card are what the Hub's library reads."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(readme.read_text(), ignore_metadata_errors=False)
    except Exception as error:  # YAML's, and the library's own
        raise UserError(f"{readme}: metadata the Hub does not take: {first_line(error)}") from None


def _commit(config: Config, url: Url, folder: Path, name: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # an error is one line, without what a bar leaves behind
    api = HfApi()
    try:
        try:
            info = api.model_info(url.path)
        except RepositoryNotFoundError:
            api.create_repo(url.path, private=True)
            info = api.model_info(url.path)
        state = _state(api, config, url, info, folder)
        if state != "stands":
            files = [*sums.names(folder), sums.NAME]
            api.create_commit(
                url.path,
                [CommitOperationAdd(file, folder / file) for file in files],
                commit_message=f"btm push of {name}",
                parent_commit=info.sha,
            )
        return state
    except UserError:
        raise
    except Exception as error:  # HTTP's, the library's own, and those of its own client in Rust
        raise UserError(f"{url}: {_why(error)}") from error


def _state(api: Any, config: Config, url: Url, info: Any, folder: Path) -> str:
    """Tell what a push does to a repository; `UserError` if it may not."""
    names = {sibling.rfilename for sibling in info.siblings or []}
    if sums.NAME in names:
        there = Path(api.hf_hub_download(url.path, sums.NAME, revision=info.sha)).read_bytes()
        if there == (folder / sums.NAME).read_bytes():
            return "stands"
    if not names - _OF_THE_HUB:
        return "pushed"
    if not config.push.replace:
        raise UserError(
            f"{url}: the repository holds something else already: push.replace=true puts a commit "
            "on top of it"
        )
    return "replaced"


def _why(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or "token" in first_line(error).lower():
        return (
            f"{first_line(error)}: log in (hf auth login) or set HF_TOKEN, with the right to write"
        )
    if status in (409, 412):
        return "another commit came first: nothing of this push shows; the same command tries again"
    return first_line(error)
