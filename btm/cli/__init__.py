"""The command line: hydra composes the configuration, a verb is carried out, and its result is
shown.
"""
