"""``python -m evenkeel``."""

from evenkeel.cli import main

main()
