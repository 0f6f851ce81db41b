"""Compliance as data and as pure decisions: what is judged, by which rules, and how a report of it reads.

Services decide by it at admission and again and again afterwards; `lepton compliance check` decides by the same code.
"""
