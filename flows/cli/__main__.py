"""`python -m flows.cli`: the command line, where `moslim` is on no path."""

from flows.cli.commands import main

main()
