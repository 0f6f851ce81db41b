"""`python -m lepton.cli`."""

from lepton.cli import main

main()
