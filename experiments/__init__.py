"""Experiments: short compositions of ``vi``'s parts, each a module to run."""
