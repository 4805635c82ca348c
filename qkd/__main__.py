"""`python -m qkd`: the command line."""

from qkd.cli import main

main()
