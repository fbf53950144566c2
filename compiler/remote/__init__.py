"""Commands that are carried out on a login host, over ssh."""
