"""The command line: one file a noun, each loaded when it is asked for."""
