"""Reference networks in plain torch, and loading a user's own."""
