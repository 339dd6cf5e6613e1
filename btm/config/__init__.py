"""The configuration: dataclasses of every section, the words they choose from, and what is
refused.
"""
