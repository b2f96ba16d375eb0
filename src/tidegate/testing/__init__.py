"""What tests of Tidegate, and of what is built on it, share: strategies, and laws as suites."""
