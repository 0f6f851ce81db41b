"""Owns models, versions, optimisations, deployments and routes; not where replicas run, which the scheduler decides."""
