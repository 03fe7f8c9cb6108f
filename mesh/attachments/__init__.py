"""Large immutable bytes: added on one node, fetched by any other, carried beside the documents.

``service`` is what an application sees; ``keeping`` removes what nothing needs, ``verifying`` finds what the
disk has damaged and ``repairing`` gets it back. ``exchange`` fetches what is wanted, here or elsewhere:
``correspondence`` is what nodes tell each other of that, ``transfers`` are the fetches, one per blob.
``bulk`` carries the chunks: ``lanes`` ask those who hold them, ``serving`` answers those who ask.

What a peer, or an application that asks for too much, can make a node hold is bounded:

- the size of a blob: ``service.MAX_BLOB_BYTES``, 1 TiB; its chunk list takes 32 MiB while it is under way,
  and what each of its sources says it holds takes 128 KiB (a bit per chunk);
- fetches under way: ``slots.MAX_UNDER_WAY`` of a priority and those above it. The others wait, and have
  neither a file nor a map of chunks;
- bytes asked of one source and not arrived: ``core.picking.MAX_WINDOW`` for each fetch; received and not yet
  written: ``lanes.QUEUED_CHUNKS`` for each holder;
- small blobs on their way to the disk: as many as there are fetches under way, ``storage.blobs.SMALL_BYTES``
  each;
- what one downloader has asked for and not got: ``requests.MAX_QUEUED`` chunks; more end its connection;
  read for it and not sent: three of them, or ``serving.READ_AHEAD`` small blobs;
- blobs that are remembered to be too large to be passed on, as the log says once: ``oversize.MAX_WARNED``;
- demands that a link brought: ``core.demand.MAX_DEMANDS_PER_LINK``; more are ignored until they are repeated.
"""
