"""The Python side of probes/PROTOCOL.md."""
