"""Recordings of real devices; SOURCES.md names their origins and licences."""
