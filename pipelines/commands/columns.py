"""Figures in columns, for people."""


def figure(value: float | None, sign: str = "") -> str:
    """Four digits; nothing where there is no figure. `sign` is `+` to show both signs."""
    return "" if value is None else f"{value:{sign}.4g}"


def print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        print("nothing yet")
        return
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    for line in [dict(zip(names, names, strict=True)), *rows]:
        print("  ".join(line[name].ljust(widths[name]) for name in names).rstrip())
