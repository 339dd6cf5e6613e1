"""Files and processes: crash-safe writing, leases, checksums, signals."""
