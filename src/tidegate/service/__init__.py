"""A service: the declarations of all stages, composed into one compiled manifest."""
