"""How good answers were, once it is known what they should have been."""
