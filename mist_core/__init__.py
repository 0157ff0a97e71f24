"""Compute library of the pipeline: functions on arrays and frozen records. Imports nothing heavy."""

__version__ = "0.1.0"
