"""The words every other package uses: errors, identifiers, clock, digests, principals, decisions."""
