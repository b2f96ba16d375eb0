"""`python -m tidegate` is `tidegate`."""

from tidegate.cli.start import main

main()
