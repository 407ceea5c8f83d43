"""HTTP apart from any route: bodies, responses, encodings, and the drain at the end of a server."""
