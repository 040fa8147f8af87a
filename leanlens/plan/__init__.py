"""plan: what a request or a run costs, before it is made; arithmetic only."""
