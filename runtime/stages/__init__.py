"""One module for each stage kind; each has its config, its types, its run, and a `STAGE`."""
