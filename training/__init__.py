"""Training: configuration, the loop, exact resume, the run folder."""
