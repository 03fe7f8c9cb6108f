"""Whatever a blob is called, its file has a harmless name."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.core.file_names import MAX_NAME_BYTES, safe_file_name, suffixed_file_name

HASH = "ab" * 32
PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "CON", "nul.", "com1", " ", "\0", "\u202e", "é", "e\u0301", "x", ":"]
)
NAMES = st.one_of(st.text(), st.lists(PIECES).map("".join), st.text(min_size=150, max_size=400))


@given(NAMES)
@example("\u202e. .con")
@example("a" * 190 + ". . . . . . . . . . .x")
@example("con" + "é" * 200)
def test_a_safe_name_is_harmless(name: str) -> None:
    safe = safe_file_name(name, HASH)
    assert safe
    assert not set(safe) & set('/\\<>:"|?*')
    assert not safe.startswith((".", " "))
    assert not safe.endswith((".", " "))
    assert all(unicodedata.category(c)[0] != "C" for c in safe)
    assert len(safe.encode()) <= MAX_NAME_BYTES
    assert len(suffixed_file_name(safe, "d" * 26).encode()) <= 255
    assert safe.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    assert safe_file_name(safe, HASH) == safe, "a safe name stays"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("map.mbtiles", "map.mbtiles"),
        ("Kärtchen (2).tar.gz", "Kärtchen (2).tar.gz"),
        ("../../etc/passwd", "passwd"),
        ("/etc/", HASH),
        ("C:\\temp\\a.txt", "a.txt"),
        (".bashrc", "bashrc"),
        ("...", HASH),
        ("", HASH),
        (None, HASH),
        ("Con.txt", "_Con.txt"),
        ("a\nb.txt", "ab.txt"),
        ("x" * 300 + ".txt", "x" * 196 + ".txt"),
        ("é" * 300, "é" * 100),
    ],
)
def test_names_people_will_see(name: str | None, safe: str) -> None:
    assert safe_file_name(name, HASH) == safe


@pytest.mark.parametrize(
    ("name", "suffixed"),
    [
        ("map.bin", "map-id.bin"),
        ("map", "map-id"),
        ("a.tar.gz", "a.tar-id.gz"),
        ("v1.a-long-last-part-of-it", None),
    ],
)
def test_a_suffix_goes_before_the_extension(name: str, suffixed: str | None) -> None:
    assert suffixed_file_name(name, "id") == (suffixed or f"{name}-id")
