"""Faults on purpose: a small run killed, paused, starved and damaged at seeded random times, and whether it comes out right."""
