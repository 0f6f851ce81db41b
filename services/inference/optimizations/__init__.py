"""Owns optimisations: searches for smaller and faster variants of a model, as resources and as what they ask to run."""
