"""Core: what events mean, and when they are durable. No sockets."""
