"""Views -> mesh in stages that can each be called alone: hull, refine, clean, simplify, bake, export.

`pipeline.reconstruct` runs them in order and falls back to the stage before where one fails. No Ray in here.
"""
