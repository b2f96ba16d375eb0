"""Releases: how traffic moves from one version to another, and back."""
