"""The commands of `alignc`, one module each with a `command`; the group finds them by their file."""
