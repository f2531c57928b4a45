# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig's disk image: a Debian 12 with libvirtd, built by mmdebstrap, cached by its recipe.

Owns what is in the image, how it is built and where it is kept. Nothing in it changes when the
module, the guest or the agent change: those come in over 9p (see ``rig``, ``parts``). Beside the
disk lie its kernel, its initrd and the kernel headers that a module for it needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
DISK_BYTES = 4 << 30  # sparse; about 1.5 GB are used

PACKAGES = (
    "linux-image-amd64",
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "e2fsprogs",
    "mount",
    "procps",
    "psmisc",
    "python3",
    "python3-lxml",
    "python3-libvirt",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "apparmor",
    "pciutils",
    "nvme-cli",
    "mdadm",
    "lvm2",
    "cryptsetup-bin",
    # For the role in packaging/ansible, played against the rig itself.
    "ansible-core",
    "python3-apt",
)

# Laid into the root before the first package, so that the initrd is generated once and small.
FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 0\n",
    "etc/hosts": "127.0.0.1 localhost rig\n",
    "etc/dpkg/dpkg.cfg.d/rig": (
        "path-exclude=/usr/share/doc/*\n"
        "path-exclude=/usr/share/man/*\n"
        "path-exclude=/usr/share/locale/*\n"
        # libvirtd asks every emulator it finds for its capabilities, 8 s each under TCG.
        "path-exclude=/usr/bin/qemu-system-i386\n"
    ),
    "etc/initramfs-tools/conf.d/rig": "MODULES=list\nRESUME=none\n",
    "etc/initramfs-tools/hooks/rig": (
        "#!/bin/sh\n"
        '[ "$1" = prereqs ] && exit 0\n'
        ". /usr/share/initramfs-tools/hook-functions\n"
        "manual_add_modules virtio_pci virtio_blk ext4 crc32c_generic\n"
    ),
    "etc/systemd/journald.conf.d/rig.conf": "[Journal]\nStorage=volatile\nRateLimitBurst=0\n",
    "etc/systemd/system.conf.d/rig.conf": "[Manager]\nDefaultTimeoutStartSec=300s\n",
    "etc/systemd/system/rig-agent.service": (
        "[Unit]\n"
        "Description=Runs what the rig sends over a virtio-serial port\n"
        "DefaultDependencies=no\n"
        "After=systemd-udevd.service local-fs.target\n"
        "[Service]\n"
        "Environment=LC_ALL=C.UTF-8\n"
        # udev may be loading it just now: a mount in between finds "no channels available".
        "ExecStartPre=/sbin/modprobe 9pnet_virtio\n"
        "ExecStartPre=/bin/mkdir -p /run/rig/checkout /run/rig/parts\n"
        "ExecStartPre=/bin/mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288"
        " checkout /run/rig/checkout\n"
        "ExecStartPre=/bin/mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=524288"
        " parts /run/rig/parts\n"
        "ExecStart=/usr/bin/python3 -I /run/rig/checkout/tests/vm/agent.py\n"
        "StandardOutput=journal+console\n"
        "StandardError=journal+console\n"
        "OOMScoreAdjust=-1000\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    ),
}

LINKS = {
    "etc/systemd/system/multi-user.target.wants/rig-agent.service": "../rig-agent.service",
    "etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
    # Nobody logs in, nothing is kept, and under TCG each of these costs seconds.
    **{
        f"etc/systemd/system/{unit}": "/dev/null"
        for unit in (
            "apt-daily.timer",
            "apt-daily-upgrade.timer",
            "dpkg-db-backup.timer",
            "e2scrub_all.timer",
            "e2scrub_reap.service",
            "fstrim.timer",
            "getty.target",
            "logrotate.timer",
            "libvirt-guests.service",
            "systemd-networkd-wait-online.service",
            "systemd-random-seed.service",
        )
    },
}

# The headers that fit the image's kernel exactly: mmdebstrap's own apt knows which.
# linux-compiler-gcc-12-x86 is only a dependency on the compiler, which this machine has.
HEADERS_HOOK = """#!/bin/sh
set -eu
release=$(basename "$1"/lib/modules/*-amd64)
kbuild=linux-kbuild-$(echo "$release" | cut -d. -f1,2)
cd "$(dirname "$0")"
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -o APT::Sandbox::User=root download --quiet \\
    "linux-headers-$release" "linux-headers-${release%-amd64}-common" "$kbuild"
rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap
"""


@dataclass(frozen=True)
class Image:
    """A finished image and what belongs to it."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def release(self) -> str:
        """The kernel's release, as ``uname -r`` says it in the rig."""
        return (self.directory / "release").read_text().strip()

    @property
    def headers(self) -> Path:
        """A build directory for modules of this kernel."""
        return self.directory / "headers" / "usr" / "src" / f"linux-headers-{self.release}"


def ensure() -> Image:
    """Return the image for the present recipe; build it if there is none, forget older ones."""
    cache = cache_directory()
    with _only_one(cache):
        wanted = cache / recipe_hash()
        if not wanted.is_dir():
            print("vm: building the disk image (a few minutes, once)", flush=True)
            _build(wanted)
        _forget_others(wanted)
    return Image(wanted)


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "virt-nvme-reset" / "vm"


def recipe_hash() -> str:
    """Hash everything that decides what is in the image, this file's build steps included."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


@contextmanager
def _only_one(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _forget_others(wanted: Path) -> None:
    for other in wanted.parent.iterdir():
        if other.is_dir() and other != wanted:
            shutil.rmtree(other)


def _build(wanted: Path) -> None:
    """Build beside the final place and rename: an interrupted build leaves no half image."""
    if os.geteuid() != 0:
        raise PermissionError("building the rig's image needs root (sudo make vm-test)")
    with tempfile.TemporaryDirectory(prefix="building-", dir=wanted.parent) as scratch:
        root, result = Path(scratch, "root"), Path(scratch, "result")
        result.mkdir()
        _bootstrap(Path(scratch), root)
        _unpack_headers(Path(scratch), result / "headers")
        _take_boot_files(root, result)
        _make_disk(root, result / "disk.raw")
        result.rename(wanted)


def _bootstrap(scratch: Path, root: Path) -> None:
    overlay, headers_hook = scratch / "overlay", scratch / "headers-hook"
    _lay_overlay(overlay)
    headers_hook.write_text(HEADERS_HOOK)
    headers_hook.chmod(0o755)
    command = [
        # Its own mount namespace: whatever kills mmdebstrap, no mount stays below the root.
        *("unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--variant=apt"),
        *("--include", ",".join(PACKAGES)),
        *(f"--aptopt={line}" for line in _apt_configuration()),
        f'--setup-hook=cp -a {overlay}/. "$1"',
        f"--customize-hook={headers_hook}",
        *(SUITE, str(root), "-"),
    ]
    subprocess.run(command, input="\n".join(_apt_sources()) + "\n", text=True, check=True)


def _lay_overlay(overlay: Path) -> None:
    for name, text in FILES.items():
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    for name, target in LINKS.items():
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    overlay.chmod(0o755)


def _apt_sources() -> list[str]:
    """Debian's own sources as this machine's apt has them, as one-line entries."""
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    listed = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = []
    for line in sorted(set(listed.splitlines())):
        uri, release, component, *origin = line.split()
        if origin == ["Debian"] and release.split("-")[0] == SUITE:
            sources.append(f"deb [signed-by={keyring}] {uri} {release} {component}")
    if not sources:
        raise LookupError(f"apt knows no Debian {SUITE} here: run apt-get update")
    return sources


def _apt_configuration() -> list[str]:
    """How this machine's apt fetches (proxies, dates, certificates), for mmdebstrap's apt."""
    inherited = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    lines = _output("apt-config", "dump", "--no-empty").splitlines()
    return [line for line in lines if line.startswith(inherited)]


def _unpack_headers(debs: Path, headers: Path) -> None:
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(deb), str(headers)], check=True)
    # Debian's Makefile includes the common one by its installed, absolute name.
    for makefile in headers.glob("usr/src/*-amd64/Makefile"):
        makefile.write_text(makefile.read_text().replace(" /usr/src/", " ../"))


def _take_boot_files(root: Path, result: Path) -> None:
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    shutil.copy(kernel, result / "vmlinuz")
    shutil.copy(root / "boot" / f"initrd.img-{release}", result / "initrd")
    (result / "release").write_text(release + "\n")
    # A fixed id: else systemd takes each boot for the first one and presets every unit.
    (root / "etc" / "machine-id").write_text("5a11951a5a11951a5a11951a5a11951a\n")


def _make_disk(root: Path, disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    # Without a journal: every boot works on a throw-away overlay.
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(disk)],
        check=True,
    )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    print(ensure().directory)
