"""How time, memory and metadata grow with the number of objects: the real steps on made-up objects, measured at several sizes."""
