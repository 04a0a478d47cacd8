"""`python -m pinxit` is the `pinxit` command."""

from pinxit.cli.main import main

main(prog_name="pinxit")
