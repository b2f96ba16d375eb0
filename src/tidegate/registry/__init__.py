"""What was registered: artifacts, versions, lineage, and the decisions taken about them."""
