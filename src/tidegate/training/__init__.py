"""Training: how a model is made, exported, and shown to be the same model."""
