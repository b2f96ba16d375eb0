"""Measurements of Tidegate beside the plain alternative, on this machine, in one run. See README.md."""
