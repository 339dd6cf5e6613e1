"""Sparse differences from a parent: how their mask lives (`momentum`), and the file they are
shipped as (`delta`).
"""
