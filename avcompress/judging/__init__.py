"""Judging networks, just made or finished long ago: measured, compared with a reference, held against a contract."""
