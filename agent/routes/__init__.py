"""The routes role: kernel routes to the pods of other nodes (ADR 0019)."""
