"""The native engine for Python: the only importer of `tunnel._core`.

See native/include/tunnel_core.h for what each call does; this module adds types, errors and the
event loop's reader.
"""
