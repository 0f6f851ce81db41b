"""The main job from end to end on this machine: sign in, train, register, deploy, predict, and show the one trace."""
