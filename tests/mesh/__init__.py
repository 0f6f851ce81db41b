"""The whole mesh: real processes, started by the one-machine stack."""
