"""Owns batch predictions: the plan of shards, the programs that make and run them, what is told of their progress."""
