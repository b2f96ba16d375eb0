"""Whatever maps a batch of columns to a batch of columns: graph, table, rule, function."""
