"""Gates: from evidence about a version to a verdict, before it gets any traffic."""
