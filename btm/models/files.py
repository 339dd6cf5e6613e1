"""File names of a Hugging Face model folder."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"  # of a model in one file
README = "README.md"
INDEX = "model.safetensors.index.json"  # which tensor is in which file, where there are several
EVERY_WEIGHTS = "model*.safetensors"  # matches the files of weights, one or several
