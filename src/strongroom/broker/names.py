"""Name what both ends of the broker's door must spell alike: the server's name and the two headers."""

SERVER_NAME = "broker.strongroom"
CHECKPOINT_HEADER = "strongroom-checkpoint"
SESSION_HEADER = "strongroom-session"
