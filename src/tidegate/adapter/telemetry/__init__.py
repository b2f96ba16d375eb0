"""Traces for OpenTelemetry, made of what the journal says anyway."""
