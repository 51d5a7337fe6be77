from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.bundle import sign_bundle


@pytest.fixture
def ros(world, bench):
    """Start a world around engines of a test."""
    from contextlib import ExitStack

    with ExitStack() as worlds:

        def start(engines=None, **parameters):
            b = bench()
            b.engines |= engines or {}
            given = {"bundle": "main", "allow_unsigned": True, "cameras": ["front"], "age_from": "arrival"}
            made = worlds.enter_context(world(b.load, **{**given, **parameters}))
            made.listen("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
            made.bench = b
            return made

        yield start


@dataclass(frozen=True)
class Signed:
    """A bundle on the disk.

    Attributes:
        key: the file of the public key that has signed it.
    """

    folder: Path
    key: Path


@pytest.fixture
def signed_bundle(tmp_path, brightest_bundle):
    """A segmenter whose class is the brightest of red, green and blue, for one image of 16x24."""
    key, folder = Ed25519PrivateKey.generate(), brightest_bundle(tmp_path / "bundle", revision=4)
    sign_bundle(folder, key)
    public = tmp_path / "release.pem.pub"
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(*form))
    return Signed(folder, public)
