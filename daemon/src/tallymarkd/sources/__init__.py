"""Readers of other tools' records: each turns what it finds into events.

A reader opens files and gives events; it knows no socket and no client. What
it cannot read it counts by kind and reports, and it never raises on account of
what stands in a file.
"""
