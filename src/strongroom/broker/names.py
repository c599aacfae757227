"""Name what both ends of the broker's door must spell alike: its name, two headers, sizes that it takes."""

SERVER_NAME = "broker.strongroom"
CHECKPOINT_HEADER = "strongroom-checkpoint"
SESSION_HEADER = "strongroom-session"
NONCE_BYTES = 32
MOST_WANTED = 1_000_000  # answers of one caller in one window
