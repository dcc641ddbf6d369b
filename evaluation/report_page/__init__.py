"""The pieces of the report page: safe markup, plots as inline SVG, sections, and what they read."""
