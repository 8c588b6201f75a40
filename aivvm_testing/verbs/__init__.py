"""The verbs of the `aivvm-testing` command, a room for each kind: each function prints and returns an exit status."""
