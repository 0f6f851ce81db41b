"""Lepton's services: siblings that meet only over gRPC."""
