"""The router: text → TF-IDF → truncated SVD → distances to cluster centres → weights of experts."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from btm.errors import UserError
from btm.system import durable, lfs
from btm.system.extras import install

Array = NDArray[np.float32]

HOME = ".router"  # the folder beside the domains that holds the router
CHARS = 5_000  # of a document that are read
_WORD = re.compile(r"\w\w+")
# Translates every ASCII byte that is part of no word to a blank.
_BREAKS = bytes(
    code if chr(code).isalnum() or code == ord("_") else ord(" ") for code in range(256)
)
_NUMBER = "#number"
_TERMS = 50_000  # of the vocabulary, at most
_RAREST = 3  # documents that a term must stand in
_REMEMBERED = 200_000  # words whose number is looked up without a call
_ITERATIONS = 4  # of the randomised SVD


def words(text: str) -> list[str]:
    """Split a document's beginning into lower-case words; every number is the same word."""
    return [_NUMBER if word[0].isdigit() else word for word in _WORD.findall(text[:CHARS].lower())]


def _spelt(text: str) -> list[str]:
    """Split like `words` but faster, keeping numbers as written and perhaps single characters."""
    begun = text[:CHARS].lower()
    if begun.isascii():
        return begun.encode().translate(_BREAKS).decode().split()
    return _WORD.findall(begun)


class _Index(dict[str, int]):
    """The number of every term; -1 for any other word."""

    def __missing__(self, word: str) -> int:
        number = self.get(_NUMBER, -1) if word[0].isdigit() and len(word) > 1 else -1
        if len(self) < _REMEMBERED:  # so that common words that are no terms cost one call only
            self[word] = number
        return number


@dataclass
class Router:
    """The map from a context to weights of clusters: V terms, F features, K clusters."""

    terms: list[str]
    idf: Array  # (V,)
    components: Array  # (F, V)
    centres: Array  # (K, F)
    temperature: float = 0.1

    @classmethod
    def fit(cls, texts: Sequence[str], features: int, seed: int) -> tuple["Router", Array]:
        """Learn the features of `texts`; return a router without centres, and features (D, F)."""
        _require_sklearn()
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

        counts = CountVectorizer(
            analyzer=words,
            min_df=min(_RAREST, max(1, len(texts) // 100)),
            max_features=_TERMS,
            dtype=np.float32,
        )
        try:
            counts_DV = counts.fit_transform(texts)
        except ValueError as error:
            raise UserError(f"no words to tell documents apart by: {error}") from None
        found = counts.get_feature_names_out()
        telling = [i for i, term in enumerate(found) if term not in ENGLISH_STOP_WORDS]
        terms = found[telling].tolist()
        counts_DV = counts_DV[:, telling]
        in_documents = np.asarray((counts_DV > 0).sum(axis=0)).ravel()
        idf_V = (np.log((1 + len(texts)) / (1 + in_documents)) + 1).astype(np.float32)
        width = min(features, len(terms) - 1, len(texts) - 1)
        if width < 1:
            raise UserError(
                f"{len(texts)} documents with {len(terms)} terms are too few to tell apart"
            )
        svd = TruncatedSVD(width, n_iter=_ITERATIONS, random_state=seed)
        svd.fit(_weigh(counts_DV, idf_V))
        components, no_centres = (
            svd.components_.astype(np.float32),
            np.zeros((0, width), np.float32),
        )
        router = cls(terms, idf_V, components, no_centres)
        return router, _unit(counts_DV.multiply(idf_V).tocsr() @ router._by_term)

    @property
    def domains(self) -> list[str]:
        """The names of the clusters, as discovery gives them to its domains."""
        return [name_of(k) for k in range(len(self.centres))]

    @property
    def sha256(self) -> str:
        """The hash of all that its weights depend on, wherever it stands."""
        digest = hashlib.sha256(repr((self.domains, self.terms, self.temperature)).encode())
        for array in (self.components, self.idf, self.centres):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def features(self, texts: Iterable[str]) -> Array:
        """Compute features of length 1, (D, F); all 0 for a text without known words.

        Scaling to length 1 cancels TF-IDF's own norm, so the features are a sum over the words of a
        text, and the words need not be counted.
        """
        _require_sklearn()
        from scipy.sparse import csr_array

        number = self._index.__getitem__
        spelt = map(_spelt, texts)
        found = [np.fromiter(map(number, each), np.int32, len(each)) for each in spelt]
        known = [terms[terms >= 0] for terms in found]
        if not known:
            return np.zeros((0, len(self.components)), np.float32)
        terms = np.concatenate(known)
        ends = np.cumsum([0, *map(len, known)])
        weights_DV = csr_array((self.idf[terms], terms, ends), (len(known), len(self.terms)))
        return _unit(weights_DV @ self._by_term)

    @cached_property
    def _index(self) -> _Index:
        return _Index((term, v) for v, term in enumerate(self.terms))

    @cached_property
    def _by_term(self) -> Array:
        return np.ascontiguousarray(self.components.T)  # (V, F)

    def similarity(self, features_DF: Array) -> Array:
        """Compute −‖x − c‖² of documents and centres, (D, K)."""
        squares = (features_DF**2).sum(axis=1)[:, None] + (self.centres**2).sum(axis=1)
        return 2 * features_DF @ self.centres.T - squares

    def save(self, folder: Path) -> None:
        """Write the router into the unpublished `folder`: JSON and safetensors, nothing pickled."""
        from safetensors.numpy import save

        tensors = {"idf": self.idf, "components": self.components, "centres": self.centres}
        # safetensors writes the memory as it lies and ignores the order of the axes.
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        with durable.publish_file(folder / "router.safetensors") as handle:
            handle.write(save(tensors))
        durable.write_json(
            folder / "router.json", {"temperature": self.temperature, "terms": self.terms}
        )

    @classmethod
    def load(cls, folder: Path) -> "Router":
        """Load a router that `save` wrote; `UserError` if it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        for name in ("router.json", "router.safetensors"):
            lfs.refuse(folder / name)
        try:
            facts = json.loads((folder / "router.json").read_bytes())
            tensors = load_file(folder / "router.safetensors")
            idf, components, centres = (tensors[name] for name in ("idf", "components", "centres"))
            made = cls(facts["terms"], idf, components, centres, facts["temperature"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"{folder}: no router there: {error}") from None
        V, F = len(made.terms), made.components.shape[0]
        shapes = (made.idf.shape, made.components.shape, made.centres.shape[1:])
        if shapes != ((V,), (F, V), (F,)):
            raise UserError(f"{folder}: the router's tensors do not fit each other")
        if not all(np.isfinite(part).all() for part in (made.idf, made.components, made.centres)):
            raise UserError(f"{folder}: the router has a NaN or an infinity")
        if not isinstance(made.temperature, int | float) or not 0 < made.temperature < np.inf:
            raise UserError(
                f"{folder}: the router's temperature is {made.temperature!r}; wanted more than 0"
            )
        if not len(made.centres) or not all(isinstance(term, str) for term in made.terms):
            raise UserError(f"{folder}: the router has no clusters, or terms that are no words")
        return made

    def describe(self, k: int, count: int = 6) -> str:
        """List the terms that mark a cluster most."""
        weights_V = self.centres[k] @ self.components
        return ", ".join(self.terms[v] for v in np.argsort(-weights_V)[:count])


def name_of(k: int) -> str:
    """Name the domain of cluster `k`."""
    return f"cluster{k:02}"


def _weigh(counts_DV: Any, idf_V: Array) -> Any:
    """Compute TF-IDF rows of length 1."""
    weighed = counts_DV.multiply(idf_V).tocsr()
    norms = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    return weighed.multiply(1 / np.maximum(norms, 1e-12)[:, None]).tocsr().astype(np.float32)


def _unit(features_DF: Any) -> Array:
    """Scale rows to length 1; rows of 0 stay 0."""
    features = np.asarray(features_DF, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _require_sklearn() -> None:
    """Raise `UserError` if the extra is missing."""
    if find_spec("sklearn") is None:
        raise UserError(f"discovery needs scikit-learn; run: {install('discover')}")
