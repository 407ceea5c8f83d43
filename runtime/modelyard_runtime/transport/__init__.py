"""Sockets, connections and the life of a server process: what carries bytes to the protocols and back."""
