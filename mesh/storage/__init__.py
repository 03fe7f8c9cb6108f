"""Adapters to the disk: the SQLite store and the blob folder, with their in-memory twins.

``documents`` is the store, ``database`` who writes to it when, ``connection`` how. What is done there are
jobs: ``writes`` and ``contributions`` for this node, ``finding`` to read, ``replicas`` for sync; they work on
``rows``, under the identity and clock of ``lineage``. ``blobs`` is the port to the bytes of blobs:
``blob_folder``, with what is called ``blob_*`` below it, and ``blob_memory``.
"""
