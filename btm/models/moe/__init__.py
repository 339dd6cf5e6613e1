"""Mixtures of experts made of Llama-class models: Mixtral's class, loaded by plain transformers.

``mixtral.py`` lays out and streams the weights, ``hidden.py`` reads hidden states, ``routers.py``
makes the rows of a router of them.
"""
