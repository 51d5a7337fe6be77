"""`python -m avcompress` is the command line."""

from avcompress.cli import main

main()
