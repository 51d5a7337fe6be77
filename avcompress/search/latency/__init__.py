"""What layers take in each precision, and conversions between them: measured here, read from a file, or estimated."""
