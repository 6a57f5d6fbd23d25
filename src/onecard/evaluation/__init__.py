"""How good it is, and with how much doubt."""
