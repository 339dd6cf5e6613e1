"""Cycles as jobs: on this machine or on Slurm, killed or not, to exactly one ELM for every expert.

`jobs` says which jobs a cycle has, `drive` decides which to start, `local` and `slurm` start them,
`worker` and `attempt` do one try at one job, `records` is what all of them leave on disk, `attach`
shows it. What is done is what stands in the forest; no process's memory is ever asked.
"""
