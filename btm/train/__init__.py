"""Training of one ELM: loop, schedule, optimizer, checkpoints.

Randomness is a function of (seed, step): batches, generator and learning rate follow from the
step, so a checkpoint is parameters, moments and a number, and a resumed run equals an unbroken
one bit for bit on the same threads, torch and instruction set. Where those differ the card says
`exact: false`.

`trainer.carry`: the paper continues the seed's optimizer and schedule in every expert (`continue`).
The seed's card keeps that schedule, so it is the same one whatever later commands say of rate and
steps. A branch of several parents has no moments to continue. `fresh` begins a schedule anew and is
the default, since short expert phases gain most by it (docs/choosing.md).

`optimizers`: moments of 8 bits are those of bitsandbytes, in blocks of 256; tensors under 4,096
elements stay in 32 bits. A checkpoint of one optimizer is refused by another, never converted.
bitsandbytes is imported without `kernels`, through which it would fetch code and run it.

`checkpoint`: a checkpoint is copied, then written by a thread; an error is raised by the next step.
The price is memory for a second copy; `trainer.write_behind=false` does without.
"""
