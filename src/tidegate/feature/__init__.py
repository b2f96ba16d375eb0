"""Features: declared once, joined point-in-time offline, looked up by key online."""
