"""Mixtures of experts made of ELMs, in classes that plain transformers loads.

``classes.py`` says which class holds which ELMs, ``assemble.py`` lays out and streams the weights,
``hidden.py`` reads hidden states, ``routers.py`` makes the rows of a router of them.
"""
