"""One module a revision. A revision only adds, so that the release before can still read."""
