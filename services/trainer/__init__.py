"""The trainer: owns training jobs, runs, checkpoints and the code that ranks run; places and starts nothing itself."""
