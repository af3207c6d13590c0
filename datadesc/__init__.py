"""The data descriptions, one JSON file a subsystem; no code."""
