"""File distribution: five verbs on three kinds of owned documents, and blobs that are fetched lazily.

``service`` publishes by documents, ``direct`` by messages to neighbours, whose ``offers`` it takes in. What
either finds for this node, a ``subscriber`` acts upon: ``jobs`` fetch, the ``inbox`` delivers,
``receipt_writer`` says how far it is.
"""
