"""The same words as others measure them: what their code computes, written anew, and a table of how far the answers differ."""
