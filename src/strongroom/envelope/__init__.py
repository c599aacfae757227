"""The owner's data becomes ciphertext plus a wrapped data key; custody of the master key lives here.

Start at :func:`encrypt_table` and :func:`open_table` (tables), :func:`encrypt_files` and :func:`open_files` (any other
file), :func:`open_custody` (master keys). Format: spec/1-encrypted-dataset.md. Never writes plaintext to disk.
"""
