"""Owns the programs that turn a model package into what is served; each runs as a slice and proves what it made."""
