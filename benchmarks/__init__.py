"""Timings that a person can repeat: each is a module with ``--help`` and writes its figures as JSON."""
