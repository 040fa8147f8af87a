"""The server: the APIs of the clients people already have, drawing the same images as the command line."""
