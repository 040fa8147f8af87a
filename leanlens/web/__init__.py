"""The web page of the server. It is mounted on the app that `leanlens.serve` makes."""
