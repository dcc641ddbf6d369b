"""The procedural families: small parametric objects with painted surfaces, written as GLB files."""
