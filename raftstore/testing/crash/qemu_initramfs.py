"""What a virtual machine boots from: a kernel of this machine's, and a few files in memory made for it.

They are a busybox, the modules of the kernel that it needs, and a script that hands over to Python, which is
the one of the host: the machine sees the host's files, and cannot change them.
"""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

BOOT: Final = Path("/boot")
MODULES: Final = Path("/lib/modules")
NEEDED: Final = (
    "virtio_pci",
    "virtio_blk",
    "9pnet_virtio",
    "9p",
    "crc32c_generic",
    "dm-log-writes",
    "dm-flakey",
    "ext4",
    "xfs",
)
"""The modules; each after those that it needs itself."""
SHARED: Final = "/run/shared"
"""Where the machine finds the directory that it may write to."""
INIT: Final = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t devtmpfs none /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m; done
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $options,ro,cache=loose root /root
$b mount -t tmpfs none /root/run
$b mkdir /root/run/shared /root/run/tmp
$b mount -t 9p -o $options shared /root/run/shared
for d in dev proc sys; do $b mount --move /$d /root/$d; done
$b chroot /root /bin/sh /run/shared/start >/root/run/shared/words 2>&1
$b sync
$b poweroff -f
"""
_DIRECTORY: Final = 0o040755
_FILE: Final = 0o100755


class Kernel(msgspec.Struct, frozen=True):
    """A kernel that can be booted, and where its modules are."""

    image: Path
    modules: Path


def kernels() -> list[Kernel]:
    """Those that are installed with all the modules that we need, the newest last."""
    found = [Kernel(image, MODULES / image.name.removeprefix("vmlinuz-")) for image in BOOT.glob("vmlinuz-*")]
    return sorted((kernel for kernel in found if _has_modules(kernel)), key=lambda k: k.image.stat().st_mtime)


def initramfs(kernel: Kernel, busybox: Path) -> bytes:
    """The files in memory, as the kernel takes them: an archive in cpio's format `newc`."""
    directories = ["bin", "modules", "root", "proc", "sys", "dev"]
    order = module_files(kernel.modules)
    names = [file.name.removesuffix(".xz") for file in order]
    files = {
        "init": INIT.encode(),
        "bin/busybox": busybox.read_bytes(),
        "modules/order": "\n".join(names).encode(),
        **{f"modules/{name}": _read(file) for name, file in zip(names, order, strict=True)},
    }
    return archive(directories, files)


def module_files(modules: Path) -> list[Path]:
    """The files of `NEEDED` and of what those need, in the order to load them. Raises `KeyError`."""
    needs = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    paths = {_module_name(path): path for path in needs}
    wanted: dict[str, None] = {}
    for name in NEEDED:
        path = paths[name.replace("-", "_")]
        wanted.update(dict.fromkeys([*reversed(needs[path].split()), path]))
    return [modules / path for path in wanted]


def archive(directories: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """A cpio archive in the format `newc`. All files may be executed."""
    entries = [_entry(number, name, _DIRECTORY, b"") for number, name in enumerate(directories, 1)]
    entries += [_entry(number, name, _FILE, data) for number, (name, data) in enumerate(files.items(), 1000)]
    return b"".join([*entries, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _has_modules(kernel: Kernel) -> bool:
    try:
        return all(file.exists() for file in module_files(kernel.modules))
    except (OSError, KeyError, ValueError):
        return False


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _read(file: Path) -> bytes:
    return lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()


def busybox() -> Path | None:
    """The path of busybox, if there is one. It must be a static one."""
    found = shutil.which("busybox")
    return None if found is None else Path(found)
