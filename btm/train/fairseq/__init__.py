"""Training with fairseq in a process of its own."""
