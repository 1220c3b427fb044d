"""The wire protocol: bytes in, messages out. No socket, clock, thread or log.

docs/PROTOCOL.md describes it for a client in another language.
"""
