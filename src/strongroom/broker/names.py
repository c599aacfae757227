"""Name what both ends of the broker's door must spell alike: its name, its headers, sizes that it takes."""

SERVER_NAME = "broker.strongroom"
CHECKPOINT_HEADER = "strongroom-checkpoint"
SESSION_HEADER = "strongroom-session"
KNOWN_HEADER = "strongroom-known"  # how many entries of the ledger the caller has seen
PROOF_HEADER = "strongroom-proof"  # that the answer's checkpoint continues those
NONCE_BYTES = 32
MOST_WANTED = 1_000_000  # answers of one caller in one window
SEALED_LABEL = b"strongroom/sealed-broker/v1"  # In the evidence of a broker that waits for its custodians.
STANDBY_LABEL = b"strongroom/standby/v1"  # In the evidence of a broker that asks another for the store's key.
