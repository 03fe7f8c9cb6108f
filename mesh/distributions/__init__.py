"""File distribution: five verbs on three kinds of owned documents, and blobs that are fetched lazily."""
