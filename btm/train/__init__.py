"""Training of one ELM: loop, schedule, optimizer, checkpoints."""
