"""A tokenizer, and a small model folder that tests damage."""

import shutil

import pytest
from interop.models import make_folder

from btm.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer folder of 512 tokens at most."""
    folder = tmp_path_factory.mktemp("tokenizer") / "made"
    train_tokenizer(["in the beginning was the word, and the word was with god"] * 8, folder, 320)
    return folder


@pytest.fixture(scope="session")
def pristine(tokenizer, tmp_path_factory):
    """A tiny llama as a Hugging Face folder; never changed."""
    return make_folder(tmp_path_factory.mktemp("pristine") / "model", tokenizer)


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy of it that a test may do anything to."""
    return shutil.copytree(pristine, tmp_path / "outside" / "model")
