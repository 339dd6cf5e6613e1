"""Training with fairseq in a process of its own.

fairseq is unmaintained, so none of its code runs in a process of btm: an interpreter of its own
is told the settings as words, and its files are read by our own reader. What it saves is opened
and published as `checkpoint-<step>/`, so leases, retries, `status` and merge work as for any
training. `entry.py` makes it save and end at SIGTERM, and die with its job: an orphan would write
into a branch that another holds. No ELM keeps its optimizer's state, a pickle: hence
`trainer.carry=fresh` alone.
"""
