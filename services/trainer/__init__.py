"""The trainer: owns training jobs, runs, checkpoints and the worker code that ranks run; places and starts nothing itself."""
