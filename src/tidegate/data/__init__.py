"""Data on its way to training and evaluation."""
