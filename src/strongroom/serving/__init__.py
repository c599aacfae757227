"""Joint prediction: a model that stays inside answers callers from an attested endpoint (spec/8-serving.md).

The endpoint's process is ``python -m strongroom.serving``, started by a launcher. Callers use
:mod:`strongroom.serving.client` from Python, or :mod:`strongroom.serving.proxy` for any HTTP client.
"""
