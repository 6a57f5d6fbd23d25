"""Plan, run, record and judge AI projects on one consumer graphics card."""

__version__ = "0.1.0"
