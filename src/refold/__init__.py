"""Refold: LSTM autoencoders of financial time series."""

from importlib.metadata import version

__version__ = version("refold")
