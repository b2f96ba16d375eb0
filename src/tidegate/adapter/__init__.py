"""One sub-package per outside system; nothing above them knows its name."""
