"""The totals of a node in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mesh.node.presence import Presence, Stats
from mesh.version import VERSION

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


def metrics(
    presence: Presence, stats: Stats, collections: Mapping[str, int], clients: Mapping[str, int]
) -> str:
    """What Prometheus scrapes. ``clients``: how many there are of the gateway, by what they use."""

    def total(value: float) -> list[_Sample]:
        return [_Sample({}, value)]

    def by_peer(figures: Mapping[str, float | None]) -> list[_Sample]:
        return [
            _Sample({"peer": peer.node_id, "name": peer.name}, value)
            for peer in presence.peers
            if (value := figures[peer.node_id]) is not None
        ]

    peers = presence.peers
    who = {"node_id": presence.node_id, "name": presence.name, "version": VERSION}
    families = [
        ("mesh_node_info", "gauge", "The node.", [_Sample(who, 1)]),
        ("mesh_node_online", "gauge", "1 unless the node is paused or cloned.", total(presence.online)),
        ("mesh_links", "gauge", "Links with peers.", total(stats.links)),
        (
            "mesh_link_rtt_seconds",
            "gauge",
            "Round-trip time of each link, smoothed.",
            by_peer({peer.node_id: peer.rtt for peer in peers}),
        ),
        (
            "mesh_link_received_bytes_total",
            "counter",
            "Bytes that came over each link since it is up.",
            by_peer({peer.node_id: peer.bytes_in for peer in peers}),
        ),
        (
            "mesh_link_sent_bytes_total",
            "counter",
            "Bytes that went over each link since it is up.",
            by_peer({peer.node_id: peer.bytes_out for peer in peers}),
        ),
        (
            "mesh_documents",
            "gauge",
            "Documents held, by collection.",
            [_Sample({"collection": name}, count) for name, count in collections.items()],
        ),
        ("mesh_blobs", "gauge", "Blobs held whole.", total(stats.blobs)),
        ("mesh_blob_disk_bytes", "gauge", "What blobs take.", total(stats.blob_disk_bytes)),
        ("mesh_document_disk_bytes", "gauge", "What documents take.", total(stats.document_disk_bytes)),
        (
            "mesh_document_received_bytes_total",
            "counter",
            "Bytes that came over links.",
            total(stats.document_bytes_in),
        ),
        (
            "mesh_document_sent_bytes_total",
            "counter",
            "Bytes that went over links.",
            total(stats.document_bytes_out),
        ),
        (
            "mesh_blob_received_bytes_total",
            "counter",
            "Bytes of blobs that came.",
            total(stats.blob_bytes_in),
        ),
        ("mesh_blob_sent_bytes_total", "counter", "Bytes of blobs that went.", total(stats.blob_bytes_out)),
        (
            "mesh_gateway_clients",
            "gauge",
            "Clients of the gateway that stay connected.",
            [_Sample({"kind": kind}, count) for kind, count in clients.items()],
        ),
    ]
    return "".join(_family(*family) for family in families)


def _family(name: str, kind: str, help: str, samples: Iterable[_Sample]) -> str:
    lines = [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{told}}} {float(value)!r}" if told else f"{name} {float(value)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
