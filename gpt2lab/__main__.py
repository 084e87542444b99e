"""`python -m gpt2lab` is the program `gpt2lab`."""

from gpt2lab.commands import main

main()
