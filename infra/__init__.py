"""Where mvforge runs: storage, tracking, the cluster. Imports nothing else of ours."""
