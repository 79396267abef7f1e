"""Timings that a person can repeat: modules with ``--help`` that write their figures as JSON."""
