"""Programs that run models in Triton's Python stub: copied into repositories, so they import nothing of Lepton."""
