"""Benchmarks: each module runs alone, compares within one run and prints JSON; README.md says what each shows."""
