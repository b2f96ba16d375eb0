"""Who may do what, and proof of who did: the audit chain."""
