"""Name what both ends of the broker's door must spell alike: the server's name, two headers, the size of a nonce."""

SERVER_NAME = "broker.strongroom"
CHECKPOINT_HEADER = "strongroom-checkpoint"
SESSION_HEADER = "strongroom-session"
NONCE_BYTES = 32
