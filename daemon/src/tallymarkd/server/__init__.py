"""Server: sockets, conversations and HTTP. Knows neither journal nor state files."""
