"""A service's promise: a small serialisable schema, and everything that is compiled from it."""
