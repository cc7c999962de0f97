"""Where work runs: Ray connection, resources, storage, preflight, job submission. Knows no stage."""
