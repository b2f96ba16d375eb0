"""Ways to people: webhooks, and through apprise whatever it knows."""
