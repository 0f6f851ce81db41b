"""What the benchmarks run on other systems; each file runs with a Python that has the system installed."""
