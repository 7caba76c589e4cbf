"""Sign a finished clip with a C2PA manifest: what was done to which source, and who says so.

C2PA (Content Credentials, specification 2.x, https://spec.c2pa.org) puts signed claims into the
file. Ours says `c2pa.opened` of the source, then `c2pa.edited` with the digital source type
`compositeWithTrainedAlgorithmicMedia` of IPTC. A source that carries claims itself keeps them as
its part of the new manifest. Nothing is fetched: no time stamp, no revocation list, no claims that
lie elsewhere.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from vidinvert.errors import EncodeError, OpenError, PlanError
from vidinvert.media.containers import check_regular_file, shown
from vidinvert.types import Credentials, VideoInfo
from vidinvert.version import VERSION

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

SIGNED = {"mp4": "video/mp4", "mov": "video/quicktime"}
"""Media type of the containers that can be signed, by muxer."""

LARGEST_PEM = 1 << 20  # bytes; a chain of certificates has a few thousand
OWN_TYPES = {"mov": "video/mp4", "avi": "video/avi"}
NO_TYPE = "application/octet-stream"  # named in the manifest, not looked into
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SETTINGS = {
    # The defaults fetch a source's claims from any address that it names.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    # The defaults hold a clip in memory twice; this keeps a copy among temporary files.
    "core": {"backing_store_memory_threshold_in_mb": 16, "merkle_tree_chunk_size_in_kb": 1024},
}
MANIFEST_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # C2PA 2.x, in ISO media files
MOST_BOXES = 64
WAKE = 0.2  # seconds between looks for a signal while another thread signs
LOST_MANIFEST = "the source's C2PA manifest, which a signed output would keep"
GOOD = ("Valid", "Trusted")  # whom to trust is for those who read it
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def carries_manifest(info: VideoInfo) -> bool:
    """Say whether a clip in MP4 or MOV holds a C2PA manifest: a box before its pictures.

    Writing the clip anew loses it, unless the output is signed.
    """
    if not info.container.startswith("mov,"):
        return False
    with info.path.open("rb") as file:
        for _ in range(MOST_BOXES):
            place, head = file.tell(), file.read(8)
            if len(head) < 8 or head[4:] in (b"mdat", b"moof"):
                return False
            if head[4:] == b"uuid" and file.read(16) == MANIFEST_BOX:
                return True
            size = int.from_bytes(head[:4], "big")
            if size < 8:  # to the end, or a size of 64 bits, which no box before pictures needs
                return False
            file.seek(place + size)
    return False


def check_credentials(credentials: Credentials) -> None:
    """Check that certificates and key can be read and belong together, before clips are looked at.

    Raises:
        PlanError: see `ManifestSigner`.
    """
    _require_library()
    _read_credentials(credentials)


class ManifestSigner:
    """Signs outputs made from one source with a user's certificate and private key.

    The constructor signs a picture of one pixel and reads that back, so that files that do not
    work are refused before frames are made.

    Args:
        credentials: where the certificates and the key are.
        source: the clip that was edited.
        edits: what was done, as the user wrote it.
        action: `c2pa.edited`, or `c2pa.transcoded` where the faces were left as they are.

    Raises:
        PlanError: c2pa-python is not installed, a file cannot be read, certificate and key are
            not each other's, or the certificate is not one for C2PA.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        source: VideoInfo,
        edits: Sequence[str] = (),
        action: Literal["c2pa.edited", "c2pa.transcoded"] = "c2pa.edited",
    ) -> None:
        _require_library()
        self._source = source
        self._edits = tuple(edits)
        self._action = action
        self._chain, self._key, self.algorithm, self.signed_by = _read_credentials(credentials)
        self._rehearse(credentials)

    def check(self, target: Path, *, muxer: str) -> None:
        """Check that the output's container can be signed.

        Raises:
            PlanError: it cannot.
        """
        if muxer not in SIGNED:
            raise PlanError(
                f"{shown(target.name)} cannot hold a C2PA manifest, expected a name that ends in "
                ".mp4, .m4v or .mov; choose one, or leave --c2pa-certificate out"
            )

    def sign(self, staged: Path, signed: Path, *, muxer: str) -> None:
        """Write a signed copy of the clip `staged` to `signed`, and read it back.

        Raises:
            EncodeError: the signed clip does not hold what it claims.
            OSError: the disc fails.
        """
        with _Witness(signed) as written, ThreadPoolExecutor(1) as pool:
            try:
                pool.submit(int).result()  # its thread is there and will be waited for
                # In a thread no signal arrives: in the library's callbacks it would be lost.
                signing = pool.submit(self._sign_into, written, staged, SIGNED[muxer])
                while not wait([signing], timeout=WAKE).done:
                    pass  # a signal just before the wait is served after it
                state, reasons = signing.result()
            except BaseException:
                written.stopped = True
                raise
        if state not in GOOD:
            raise EncodeError(
                f"the signed clip reads back as {state} ({'; '.join(reasons)}), expected a valid "
                "C2PA manifest; check the certificate, or leave --c2pa-certificate out"
            )

    def _sign_into(self, written: "_Witness", staged: Path, kind: str) -> tuple[str, list[str]]:
        from c2pa import C2paError

        with staged.open("rb") as plain:
            try:
                self._build().sign(self._signer(), kind, plain, written)
                written.seek(0)
                return _read_back(written, kind)
            except C2paError as error:
                if written.failure is not None:
                    raise written.failure from error
                raise EncodeError(
                    f"the clip could not be signed ({error}), expected a C2PA manifest in it; free "
                    "some space for it and for temporary files, or leave --c2pa-certificate out"
                ) from error

    def describe(self) -> dict[str, str]:
        """Say for the report what was claimed and by whom."""
        return {
            "action": self._action,
            "signed_by": self.signed_by,
            "algorithm": self.algorithm,
        }

    def _rehearse(self, credentials: Credentials) -> None:
        from c2pa import C2paError

        files = f"{shown(credentials.certificates)} and {shown(credentials.key)}"
        picture, signed = io.BytesIO(_one_pixel()), io.BytesIO()
        try:
            self._build().sign(self._signer(), "image/png", picture, signed)
            signed.seek(0)
            state, reasons = _read_back(signed, "image/png")
        except C2paError as error:
            state, reasons = "", [str(error)]
        if state not in GOOD:
            raise PlanError(
                f"{files} do not sign ({'; '.join(reasons)}), expected a certificate for C2PA that "
                "is in force, followed by those that vouch for it, and its private key; ask "
                "whoever issued it"
            )

    def _signer(self) -> Any:
        from c2pa import C2paSignerInfo, Signer

        return Signer.from_info(C2paSignerInfo(self.algorithm, self._chain, self._key, None))

    def _build(self) -> Any:
        """Make the manifest; it can be signed once."""
        from c2pa import Builder, C2paBuilderIntent, C2paError, Context

        ours = {"name": "vidinvert", "version": VERSION}
        action: dict[str, Any] = {"action": self._action, "softwareAgent": ours}
        if self._action == "c2pa.edited":
            action["digitalSourceType"] = COMPOSITE
        if self._edits:
            action["description"] = ", ".join(self._edits)
        manifest = {
            "claim_generator_info": [ours],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        parent = {"title": shown(self._source.path.name), "relationship": "parentOf"}
        demuxer = self._source.container.partition(",")[0]
        kind = OWN_TYPES.get(demuxer, NO_TYPE)

        builder = Builder(manifest, context=Context.from_dict(SETTINGS))
        builder.set_intent(C2paBuilderIntent.EDIT)  # which adds c2pa.opened of the parent
        with self._source.path.open("rb") as stream:
            try:
                builder.add_ingredient(parent, kind, stream)
            except C2paError:  # it plays, yet its boxes are not as C2PA wants them
                stream.seek(0)
                builder.add_ingredient(parent, NO_TYPE, stream)
        return builder


def _require_library() -> None:
    try:
        import c2pa
        import cryptography

        del c2pa, cryptography
    except ImportError as error:
        raise PlanError(
            "C2PA manifests need c2pa-python, which is not installed; run "
            "pip install 'vidinvert[c2pa]', or leave --c2pa-certificate out"
        ) from error


def _read_credentials(credentials: Credentials) -> tuple[bytes, bytes, str, str]:
    """Return the chain, the key as PKCS #8, the algorithm, and whose certificate it is."""
    from cryptography.hazmat.primitives import serialization

    certificate, chain = _read_certificates(credentials.certificates)
    key = _read_key(credentials.key)
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        raise PlanError(
            f"{shown(credentials.key)} is not the key of the first certificate in "
            f"{shown(credentials.certificates)}, expected the pair; the signer's own certificate "
            "comes first, those that vouch for it after it"
        )
    plain = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return chain, plain, _algorithm(key, credentials.key), certificate.subject.rfc4514_string()


def _read_certificates(path: Path) -> tuple["Certificate", bytes]:
    """Return the signer's certificate, and the whole chain as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = x509.load_pem_x509_certificates(_read_small(path))
    except ValueError as error:
        raise PlanError(
            f"{shown(path)} holds no certificates, expected the signer's own in PEM form, followed "
            "by those that vouch for it; check --c2pa-certificate"
        ) from error
    return chain[0], b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def _read_key(path: Path) -> "PrivateKeyTypes":
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(_read_small(path), password=None)
    except TypeError as error:
        raise PlanError(
            f"{shown(path)} is locked with a passphrase, expected a private key without one; "
            "unlock a copy that only you may read, as with `openssl pkey -in KEY -out COPY`"
        ) from error
    except ValueError as error:
        raise PlanError(
            f"{shown(path)} holds no private key, expected one in PEM form; check --c2pa-key"
        ) from error


def _algorithm(key: "PrivateKeyTypes", path: Path) -> str:
    """Return C2PA's name for the way of signing that a key is for."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise PlanError(
        f"{shown(path)} is a key that C2PA does not know, expected P-256, P-384, P-521, RSA or "
        "Ed25519; ask for a certificate of such a key"
    )


def _read_small(path: Path) -> bytes:
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            data = file.read(LARGEST_PEM + 1)
    except OpenError as error:
        text = str(error).replace("a regular video file", "a PEM file")
        raise PlanError(text.replace("a video", "a PEM file")) from error
    except OSError as error:
        raise PlanError(
            f"{shown(path)} cannot be read ({error.strerror}), expected a PEM file; check its "
            "permissions"
        ) from error
    if len(data) > LARGEST_PEM:
        raise PlanError(f"{shown(path)} is larger than 1 MiB, expected a PEM file; check its name")
    return data


def _read_back(stream: BinaryIO, kind: str) -> tuple[str, list[str]]:
    """Return the state of a signed stream, `Valid` where all is well, and what is not."""
    from c2pa import Context, Reader

    with Reader(kind, stream, context=Context.from_dict(SETTINGS)) as reader:
        results = json.loads(reader.json()).get("validation_results", {})
        failures = results.get("activeManifest", {}).get("failure", [])
        return reader.get_validation_state() or "unknown", [
            str(failure.get("explanation", failure.get("code"))) for failure in failures
        ]


class _Witness(io.FileIO):
    """A new file that remembers how writing failed, and fails once it was told to stop."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        super().__init__(descriptor, "r+b")
        self.failure: OSError | None = None  # the library says only that there was one
        self.stopped = False

    def _check(self) -> None:
        if self.stopped:
            raise InterruptedError("signing was interrupted")

    def readinto(self, buffer: Any, /) -> int | None:
        self._check()
        return super().readinto(buffer)

    def write(self, data: Any, /) -> int:
        self._check()
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.failure = error
            raise
        return done


def _one_pixel() -> bytes:
    """Return a PNG of one grey pixel."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(2))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
