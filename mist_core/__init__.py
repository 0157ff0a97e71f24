"""Compute library of the pipeline: functions on arrays. Imports nothing heavy."""

__version__ = "0.1.0"
