"""Analysis: one module per experiment; reads checkpoints and result files."""
