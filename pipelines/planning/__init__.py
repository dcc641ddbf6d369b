"""What a run will need on a given cluster: unit costs, a plan of closed forms, and a discrete-event simulation with faults."""
