"""Files and processes: crash-safe writing, leases, checksums, signals.

`durable`: everything is written under a scratch name, synced and renamed.

`lease`: to work on `branches/law` is to rename it `branches/law~<holder>`. Two processes cannot
hold it, and a holder wrongly taken for dead finds no folder where it publishes. A lease passes on
at once when its process is gone (same machine), or after ten minutes without a beat.

`sums`: SHA256SUMS seals a folder, in the one valid form that `sha256sum -c` reads, so damage to the
list shows too.

`sandbox`: files from outside are read in a box, a forked process with limits, without network and
without most of the environment. Its audit hook guards against mistakes of libraries, not against an
attacker who runs code.

`extras`: how an optional dependency is installed here.
"""
