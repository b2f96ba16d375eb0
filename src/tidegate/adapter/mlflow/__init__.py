"""MLflow: models and runs from its stores, and runs into them."""
