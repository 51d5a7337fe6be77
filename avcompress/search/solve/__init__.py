"""Which precision each group gets: the problem in numbers, an integer program for it, and two cheaper ways."""
