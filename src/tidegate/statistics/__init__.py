"""Pure engines of inference: numbers in, numbers out; no files, no clock, randomness only as given."""
