"""The registry's memory: what a forest holds and held, who descends from whom, and removal that means it."""
