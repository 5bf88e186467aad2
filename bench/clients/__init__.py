"""Clients that people point at a server, each unpatched and in an environment of its own."""
