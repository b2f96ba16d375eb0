"""The route: which version answers which key; its numbered files, their writers and readers."""
