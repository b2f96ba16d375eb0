"""One use-case a module; the command line, the console and the control plane call these."""
