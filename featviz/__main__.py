"""`python -m featviz` is the command line."""

from featviz.cli import main

main()
