"""Bad calls beyond one argument of a wrong kind: (name, arguments that are bad, the one to name)."""

HAND = []
