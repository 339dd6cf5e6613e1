"""The commons: people who share no cluster grow one forest, by objects in a store.

The store is the only server: S3, or anything of fsspec that writes an object only where none
stands, or a shared folder. Claims, signs of life, submissions and verdicts are small signed
objects; experts travel as differences in 8 bits from their parents. Nobody waits for anybody.

keys, signed       ed25519 keys of people; signed objects in canonical JSON
fields, bodies     what each object says, checked
layout             where objects stand
snapshot           a commons at one moment, as far as it is signed by whom it should be
standing           the rules: which claim holds, by the times of the store
charter, member    what is wanted and by whom; somebody who takes part
claims, keeping    a claim is taken, kept by a thread, taken over
base, checkpoints  what a branch begins with; what is uploaded of one in training
opening, joining, training, submitting, reviewing, leaving, board      what the verbs do
together           several volunteers for one expert, in rounds
gate, audit        what the content of a submission is held to; the log of all that was decided
"""
