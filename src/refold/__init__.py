"""Refold: LSTM autoencoders of financial time series."""
