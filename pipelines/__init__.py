"""What runs, in which order: recipes, the graph, the runner, the command line. Imported by nobody."""
