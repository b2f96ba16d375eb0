"""The journal as Parquet."""
