"""Records as Delta Lake tables."""
