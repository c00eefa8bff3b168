"""The harness's side of the actor protocol, probes/PROTOCOL.md."""
