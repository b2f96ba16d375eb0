"""Tidegate takes a trained model to production and keeps it trustworthy there."""
