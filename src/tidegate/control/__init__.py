"""The control plane: what people and programs ask about a running server, on a port of its own."""
