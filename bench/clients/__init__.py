"""Clients that people point at a server, each unmodified and in its own environment."""
