"""Clients that try to take a server from the others, each within seconds: what they get is bounded."""
