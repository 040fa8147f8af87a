"""The server: requests of the clients people have -> the same pictures that the command line draws."""
