"""One expert on several devices: torchrun runs processes that train it together, each on its rows
of every batch.

`job` is what the job does that holds the branch: it starts them and passes on what they say.
`agent` is torchrun as a program of its own, `rank` is what each process runs, `trainee` what
differs in it from a process alone: under DDP each holds the whole model, under FSDP2 a share of it.
All write checkpoints (`checkpoint`).
"""
