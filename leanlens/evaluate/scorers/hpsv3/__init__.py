"""HPSv3, a model of what people prefer: a script and its requirements."""
