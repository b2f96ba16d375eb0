"""What was answered, on disk before the answer left; and everything that is counted from it."""
