"""cli: words to calls; one file per command, heavy imports inside the command."""
