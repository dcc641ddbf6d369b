"""The verbs of the command line, grouped: steps of the graph, the local head, single tools."""
