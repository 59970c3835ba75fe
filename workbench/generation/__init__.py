"""Text from models: the local batched engine and its server, and the one client for every server."""
