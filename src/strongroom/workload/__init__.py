"""Inside a job: the driver admits workers, keys arrive, inputs open, outputs are encrypted; the engines."""
