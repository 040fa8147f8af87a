"""The web page of the server, mounted on the app that `leanlens.serve` makes."""
