"""`btm push`: models of this forest go to a remote."""

from dataclasses import dataclass

from btm.config.checks import is_name
from btm.config.schema import Config
from btm.errors import UserError
from btm.forest import ELM, Forest, own_model
from btm.forest.card import Card
from btm.forest.models import derived_of
from btm.forest.paths import CARD, ELMS, FACTS
from btm.interop.remote import facts as shared
from btm.interop.remote import hub, parcel, urls
from btm.interop.remote import manifest as manifests
from btm.interop.remote.manifest import Manifest
from btm.interop.remote.places import Bucket, Local, Seen, open_place
from btm.report import Reporter, quiet

STANDS = "stands"


@dataclass(frozen=True)
class Pushed:
    """The outcome of a push of one model."""

    model: str  # elms/NAME, averages/NAME, …
    way: str  # as what it stands there
    state: str  # pushed, replaced, or stands
    bytes: int  # of all its files
    sent: int  # of them, by this push


@dataclass(frozen=True)
class Standing:
    """The manifest of a model at the remote, and the object it was read from."""

    manifest: Manifest
    seen: Seen


def push(config: Config, reporter: Reporter = quiet) -> list[Pushed]:
    """Send what the command names to the remote ``to=URL``: one model, or the forest.

    What stands there already is not sent again, so that a push that was killed goes on. Raises
    `UserError` if the remote holds another forest, another model of a name, or fails.
    """
    url, forest = urls.read(config.to, "to"), Forest(config.forest_root)
    models = chosen(config, forest)
    if url.scheme == "hf":
        state = hub.push(config, url, models, reporter)
        size = 0 if state == STANDS else _bytes(models[0])
        return [Pushed(_home(models[0]), "full", state, _bytes(models[0]), size)]
    place = open_place(url)
    _require_forest(place, forest)
    exact: dict[str, str] = {}
    return [_push(config, forest, place, model, exact, reporter) for model in models]


def preview(config: Config) -> list[Pushed]:
    """Say what a push would send, and send nothing; a difference is counted as the whole model."""
    url, forest = urls.read(config.to, "to"), Forest(config.forest_root)
    if url.scheme == "hf":  # the Hub itself finds what it has, when it is sent
        models = chosen(config, forest)
        return [Pushed(_home(m), "full", "to be sent", _bytes(m), _bytes(m)) for m in models]
    place = open_place(url)
    _require_forest(place, forest)
    return [_preview(config, forest, place, model) for model in chosen(config, forest)]


def _home(model: ELM) -> str:
    return f"{model.path.parent.name}/{model.name}"


def _bytes(model: ELM) -> int:
    return sum(file.stat().st_size for file in model.path.rglob("*") if file.is_file())


def _preview(config: Config, forest: Forest, place: Local | Bucket, model: ELM) -> Pushed:
    standing = find(place, model.path.parent.name, model.name)
    if standing is not None and standing.manifest.card.sha256 == model.card.sha256:
        return Pushed(
            standing.manifest.home, standing.manifest.way, STANDS, standing.manifest.size, 0
        )
    _require_replaceable(config, place, model, standing)
    with parcel.packed(forest, model, "full", config.export.block, lambda: None) as made:
        missing = missing_files(place, made.manifest)
        size = sum(made.manifest.files[name].size for name in missing)
        return Pushed(made.manifest.home, config.push.kind, "to be sent", made.manifest.size, size)


def chosen(config: Config, forest: Forest) -> list[ELM]:
    """List the models that are pushed, parents first; the whole forest where none is named."""
    named = derived_of(config)
    if config.expert is not None and named is not None:
        raise UserError(
            f"expert={config.expert} and {named}: give one of them, or neither for the whole forest"
        )
    if config.expert is not None:
        return [forest[config.expert]]
    if named is not None:
        if config.push.kind != "full":
            raise UserError(
                f"push.as={config.push.kind}: only an ELM has a difference: leave it out"
            )
        found = own_model(forest, named)
        return [ELM(found.path, Card.read(found.path / CARD))]
    derived = [
        ELM(card.parent, Card.read(card))
        for place in manifests.PLACES
        for card in sorted((forest.root / place).glob(f"*/{CARD}"))
        if place != ELMS and is_name(card.parent.name)
    ]
    models = [*parcel.parents_first(forest.elms()), *derived]
    if not models:
        raise UserError(f"{forest.root} has no ELM yet that could be pushed")
    return models


def _require_forest(place: Local | Bucket, forest: Forest) -> None:
    """Raise `UserError` if the remote holds the forest of another architecture or tokenizer."""
    theirs = shared.read(place)
    if theirs is not None:
        shared.require_same(place, shared.Facts.of(forest), theirs, forest.root)


def _push(
    config: Config,
    forest: Forest,
    place: Local | Bucket,
    model: ELM,
    exact: dict[str, str],
    reporter: Reporter,
) -> Pushed:
    """Send one model, if it does not stand there; `exact` learns what a receiver gets by then."""
    standing = find(place, model.path.parent.name, model.name)
    if standing is not None and standing.manifest.card.sha256 == model.card.sha256:
        exact[model.name] = standing.manifest.sha256
        return _stands(standing.manifest, reporter)
    replaced = _require_replaceable(config, place, model, standing)
    way = _way(config, place, model, exact, reporter)
    with parcel.packed(forest, model, way, config.export.block, reporter.alive) as made:
        sent = _send_files(place, made, reporter)
        _publish_facts(place, forest)
        if not _publish(place, made.manifest, replaced):
            now = find(place, made.manifest.place, model.name)
            if now is None or now.manifest.to_bytes() != made.manifest.to_bytes():
                raise UserError(
                    f"{place.url}: another push was first with {made.manifest.home}, and has other "
                    "content there: nothing of this one shows"
                )
    exact[model.name] = made.manifest.sha256
    state = "pushed" if replaced is None else "replaced"
    reporter.line(f"{state} {made.manifest.home}: {sent:,} of {made.manifest.size:,} bytes sent")
    return Pushed(made.manifest.home, way, state, made.manifest.size, sent)


def find(place: Local | Bucket, folder: str, name: str) -> Standing | None:
    """Read the manifest of a model at the remote; None where there is none."""
    key = f"{folder}/{name}/{manifests.NAME}"
    seen = place.read(key, manifests.MOST)
    if seen is None:
        return None
    return Standing(manifests.parse(seen.content, folder, name, f"{place.url}: {key}"), seen)


def _stands(found: Manifest, reporter: Reporter) -> Pushed:
    how = "" if found.way == "full" else f", as {found.way}"
    reporter.line(f"{found.home} stands there{how}")
    return Pushed(found.home, found.way, STANDS, found.size, 0)


def _require_replaceable(
    config: Config, place: Local | Bucket, model: ELM, standing: Standing | None
) -> Seen | None:
    """Return the manifest that a push replaces, None if none stands; `UserError` if it may not."""
    if standing is None:
        return None
    there, ours = standing.manifest.card.sha256[:12], model.card.sha256[:12]
    if standing.manifest.place == ELMS:
        raise UserError(
            f"{place.url}: another ELM {model.name!r} stands there ({there}, here {ours}), and "
            "ELMs are never replaced: give another URL"
        )
    if not config.push.replace:
        raise UserError(
            f"{place.url}: another {standing.manifest.home} stands there ({there}, here {ours}): "
            "push.replace=true replaces it"
        )
    return standing.seen


def _way(
    config: Config,
    place: Local | Bucket,
    model: ELM,
    exact: dict[str, str],
    reporter: Reporter,
) -> str:
    """Choose how a model travels; of a whole forest, what cannot go as asked goes whole."""
    asked = config.push.kind
    if model.path.parent.name != ELMS:
        return "full"
    for name in model.card.parents if asked != "full" else ():
        if name not in exact and (parent := find(place, ELMS, name)) is not None:
            exact[name] = parent.manifest.sha256
    way, why = parcel.way_of(model, asked, exact)
    if why and config.expert is not None:
        raise UserError(f"push.as={asked}: {model.name!r} cannot travel so: {why}; push.as=full")
    if why:
        reporter.line(f"{model.name} travels whole: {why}")
    return way


def _send_files(place: Local | Bucket, made: parcel.Parcel, reporter: Reporter) -> int:
    """Send the files that do not stand there yet, and return their bytes."""
    folder, wanted = made.manifest.folder, made.manifest.files
    # A file in this folder has the content that its name is a hash of, and appeared whole.
    missing = missing_files(place, made.manifest)
    size = sum(wanted[name].size for name in missing)
    with reporter.reading(f"push {made.manifest.name}", size) as told:
        for name in missing:
            place.send(made.files[name], f"{folder}/{name}", wanted[name], told)
    if missing and (lost := missing_files(place, made.manifest)):
        raise UserError(f"{place.url}: {folder}/{lost[0]} was sent and is not there")
    return size


def missing_files(place: Local | Bucket, manifest: Manifest) -> list[str]:
    """List the files of a model that the remote has not, the largest last."""
    stand = place.sizes(manifest.folder)
    lacking = [name for name, c in manifest.files.items() if stand.get(name) != c.size]
    return sorted(lacking, key=lambda name: (manifest.files[name].size, name))


def _publish_facts(place: Local | Bucket, forest: Forest) -> None:
    """Write the remote's forest.json where there is none; another's must be of the same forest."""
    if shared.read(place) is None:
        place.create(FACTS, shared.Facts.of(forest).to_bytes())
        _require_forest(place, forest)


def _publish(place: Local | Bucket, made: Manifest, replaced: Seen | None) -> bool:
    """Write a manifest, which makes its model visible; return False if another was faster."""
    if replaced is None:
        return place.create(made.key, made.to_bytes())
    return place.replace(made.key, made.to_bytes(), replaced)
