"""`python -m lary_policy.cli`."""

from lary_policy.cli import command

command()
