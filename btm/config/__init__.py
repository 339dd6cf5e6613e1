"""The configuration: dataclasses of every section, the words they choose from, and what is
refused.

hydra composes in `cli/compose.py` alone; below it everything is these dataclasses, which are also
the only place where a default is written.
"""
