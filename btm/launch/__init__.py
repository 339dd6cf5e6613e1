"""Cycles as jobs: on this machine or on Slurm, killed or not, to exactly one ELM for every expert.

`jobs` says which jobs a cycle has, `drive` decides which to start, `local` and `slurm` start them,
`worker` and `attempt` do one try at one job, `records` is what all of them leave on disk, `attach`
shows it. What is done is what stands in the forest; no process's memory is ever asked.

A job is a step's name and a JSON spec; its worker reads everything again from disk. The seam is
`submit`, `poll`, `cancel` (`engine`). Outcomes have names: done, mistake, blocked, nan, stopped,
fault, killed, oom, hang, lost, cancelled. Mistakes are never retried; machine faults are, with
back-off, as long as each try gains a checkpoint, and `cluster.retries` times in a row without.

submitit writes the batch scripts and is asked for nothing else: with 1.5.4 on Slurm 22.05 it
cached a requeue as the end, returned the pickle of a reused job id, and waited forever for a dead
job where there was no accounting. A manifest of ours is written before `sbatch` and completed
after it; one `squeue` tells of all jobs, and `sacct` is not needed.

Workers here are forked from a driver that has imported torch and run no parallel code: a job
starts within milliseconds, and stops after a checkpoint when the driver dies. `throughput`
measures how many threads a job gets.
"""
