"""Owns pipelines: their steps, the check of their tensors, the slice that prepares them, and their ensemble."""
