"""Owns how many replicas a deployment should have: the decision from its load, and the loop that carries it out."""
