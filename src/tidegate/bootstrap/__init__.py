"""Where settings become wired processes; the only place that knows every adapter."""
