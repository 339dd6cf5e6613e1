"""Bags of words as vectors: what text says without a model, to compare with. numpy alone."""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 512
_WORD = re.compile(r"\w+")


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Hash the words of each text into 512 places with signs, weighed by tf·idf, (N, 512).

    Weinberger et al., arXiv 0902.2206; each row has mean square 1.
    """
    bags = [Counter(_WORD.findall(text.lower())) for text in texts]
    texts_with = Counter(word for bag in bags for word in bag)
    found = np.zeros((len(texts), WIDTH), np.float32)
    for row, bag in enumerate(bags):
        for word, count in bag.items():
            digest = zlib.crc32(word.encode())
            sign = 1 if digest & 1 else -1
            idf = np.log(len(texts) / texts_with[word]) + 1
            found[row, (digest >> 1) % WIDTH] += sign * (1 + np.log(count)) * idf
    norm = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(norm, 1e-9) * WIDTH**0.5, np.float32)
