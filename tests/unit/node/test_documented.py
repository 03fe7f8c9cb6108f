"""``help()`` tells what every public name is, whichever class of it one holds."""

from __future__ import annotations

import inspect

import mesh
from mesh.distributions.service import MeshFileDistribution

VERBS = ("distribute", "dry_run", "status", "cancel", "retry", "wait_for_completion", "subscribe_progress")


def test_everything_public_is_documented() -> None:
    silent = []
    for name in mesh.__all__:
        thing = getattr(mesh, name)
        if not inspect.isclass(thing):
            continue
        members = inspect.getmembers(thing, lambda it: inspect.isroutine(it) or isinstance(it, property))
        own = [(it, value) for it, value in members if not it.startswith("_")]
        silent += [f"{name}.{it}" for it, value in own if not inspect.getdoc(value)]
        silent += [] if thing.__doc__ else [name]
    assert silent == []


def test_the_verbs_of_both_services_say_what_the_interface_says() -> None:
    for service in (MeshFileDistribution, mesh.DirectFileDistribution):
        for verb in VERBS:
            said = inspect.getdoc(getattr(service, verb))
            assert said == inspect.getdoc(getattr(mesh.FileDistribution, verb))
            assert said is not None
            assert "Raises:" in said or verb == "subscribe_progress"
