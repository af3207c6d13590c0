"""The handlers: one program a device, each short enough to read at once."""
