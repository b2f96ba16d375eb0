"""HTTP faces of the data plane; the only place that knows what status an error is."""
