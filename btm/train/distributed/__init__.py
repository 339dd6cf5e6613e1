"""One expert on several devices: torchrun runs processes that train it together, each on its rows
of every batch.

`job` is what the job does that holds the branch: it starts them and passes on what they say.
`agent` is torchrun as a program of its own, `rank` is what each process runs, `trainee` what
differs in it from a process alone: under DDP each holds the whole model, under FSDP2 a share of it.
All write checkpoints (`checkpoint`).

A batch is a function of (seed, step), so each process takes its rows and nothing is sent but
gradients. torchrun meets in a file, since its TCP store listens on all interfaces. One pipe
carries steps and results up; closing the other tells the ranks to stop, which a dying job does
too. DDP finds the order of its buckets in its first backward pass, so one is done before the
first step: a sum in another order rounds differently.
"""
