"""What is taken though it was changed, and why that does no harm."""

ACCEPTED = {}
