"""Cycles as jobs: on this machine or on Slurm, killed or not, to exactly one ELM for every expert.

`jobs` lists the jobs of a cycle, `drive` decides which to start, `local` and `slurm` start them,
`worker` and `attempt` make one try at one job, `records` holds the files that all of them leave,
`attach` shows a cycle. Finished work is what stands in the forest; no process's memory is ever
needed.
"""
