"""The content-addressed artifact store: bytes kept under their own SHA-256, verified whenever they are read.

    <url>/<project>/sha256/<ab>/<hex>                 what people and services store: data, code, packages
    <url>/<project>/checkpoints/sha256/<ab>/<hex>     what the ranks of jobs store; the trainer deletes what is dropped
    <url>/<project>/uploads/sha256/<ab>/<hex>         parts of uploads that are not finished; the trainer deletes them

`file://` and `s3://` (with `lepton-sdk[s3]`), and any other filesystem of fsspec. With `#key_file=PATH` at the end of
the URL everything is encrypted before it is stored (see sealing.py); with `#keys=project`, in services, by the keys of
its project.
"""

from lepton.artifacts.digest import Digest, digest_of, parse_digest
from lepton.artifacts.draft import Draft, Written
from lepton.artifacts.files import Listed
from lepton.artifacts.keys import KeyFile, KeyProvider, Keyring, RotatingKeyProvider
from lepton.artifacts.location import Location
from lepton.artifacts.sealing import Cipher, Ciphers
from lepton.artifacts.store import CHECKPOINTS, UPLOADS, ArtifactStore

__all__ = [
    "CHECKPOINTS", "UPLOADS", "ArtifactStore", "Cipher", "Ciphers", "Digest", "Draft", "KeyFile", "KeyProvider",
    "Keyring", "Listed", "Location", "RotatingKeyProvider", "Written", "digest_of", "parse_digest",
]  # fmt: skip
