"""The demo: three owners, one analyst, one broker, a driver, two workers and egress, on this machine, for real."""
