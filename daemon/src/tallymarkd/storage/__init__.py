"""Storage: opaque bytes made durable. Knows nothing of sockets or of agents."""
