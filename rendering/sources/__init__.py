"""Where objects come from: one module per source, `base.py` holds what they share."""
