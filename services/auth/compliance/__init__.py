"""Compliance policies, exemptions, labels of data, and what the services have found by them."""
