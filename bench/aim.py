"""How a number is shown that has an aim. Times are noisy: an aim that was missed is marked, and fails nothing."""


def cell(value: float, aim: float, form: str = ".2f", *, at_least: bool = False) -> str:
    """Give a number for a table, marked if it has missed its aim; 0 is none."""
    missed = bool(aim) and (value < aim if at_least else value > aim)
    return f"{value:{form}}" + (f" ({'below' if at_least else 'above'} the aim)" if missed else "")
