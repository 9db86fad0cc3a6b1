"""`python -m sqlite_redis`: the shell."""

from ._shell import main

main()
