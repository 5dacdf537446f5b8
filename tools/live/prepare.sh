#!/usr/bin/env bash
# Prepares what the live runs need and this package cannot ship: QEMU >= 11.1 with plugin support, iasl, Debian kernels and
# busybox for both guests, and the trap plugin. Everything lands in one folder (default: .cache/live) and nothing of the
# system is changed, except that missing build tools are installed from the distribution.
#   tools/live/prepare.sh [FOLDER]
# Needs a Debian machine, root (debootstrap), about 2 GB and the distribution's archive. Running it again is cheap.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../.cache/live}
mkdir -p "$out"
out=$(cd "$out" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
suite=${DEBIAN_SUITE:-sid}
# An archive frozen in time has an expired index; the signature is still checked.
aptopt=(-o Acquire::Check-Valid-Until=false -o Dpkg::Use-Pty=0 -qq)

say() { echo "live:prepare: $*" >&2; }
need=()
for pair in debootstrap:debootstrap gcc:gcc dtc:device-tree-compiler cpio:cpio xz:xz-utils; do
  command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
if [ ${#need[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { say "missing tools; run: apt-get install ${need[*]}"; exit 1; }
  say "installing ${need[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi

root=$out/root
if [ ! -e "$root/.bootstrapped" ]; then
  [ "$(id -u)" = 0 ] || { say "debootstrap needs root: run this script with sudo"; exit 1; }
  say "debootstrap $suite (a few minutes)"
  debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$out/debootstrap.log" 2>&1 || {
    say "debootstrap failed, see $out/debootstrap.log"; exit 1; }
  touch "$root/.bootstrapped"
fi
if [ ! -x "$root/usr/bin/qemu-system-aarch64" ] || [ ! -x "$root/usr/bin/iasl" ] ||
  [ ! -e "$root/usr/share/qemu-efi-aarch64/QEMU_EFI.fd" ]; then
  say "QEMU, iasl and UEFI"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  chroot "$root" dpkg --add-architecture arm64
  chroot "$root" apt-get "${aptopt[@]}" update
  # Maintainer scripts want /proc; it is ours only for the time of the installation.
  mount --bind /proc "$root/proc"
  trap 'umount "$root/proc" 2>/dev/null || true' EXIT
  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get "${aptopt[@]}" install -y --no-install-recommends \
    qemu-system-arm qemu-system-x86 acpica-tools qemu-efi-aarch64 >"$out/install.log" 2>&1 || { say "see $out/install.log"; exit 1; }
  umount "$root/proc"
  trap - EXIT
fi
# The tools run in place, with the C library they were built for.
mkdir -p "$out/bin"
for tool in qemu-system-aarch64 qemu-system-x86_64 iasl; do
  cat >"$out/bin/$tool" <<WRAP
#!/bin/sh
exec "$root/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$root/usr/bin/$tool" "\$@"
WRAP
  chmod +x "$out/bin/$tool"
done
version=$("$out/bin/qemu-system-aarch64" --version | sed -n 's/^QEMU emulator version \([0-9]*\.[0-9]*\).*/\1/p')
awk -v v="$version" 'BEGIN { split(v, p, "."); exit !(p[1] > 11 || (p[1] == 11 && p[2] >= 1)) }' || {
  say "QEMU $version is too old, 11.1 is needed: choose a newer suite with DEBIAN_SUITE"; exit 1; }
say "QEMU $version"

for arch in arm64 amd64; do
  if [ ! -e "$out/$arch/vmlinuz" ]; then
    say "kernel and busybox for $arch"
    mkdir -p "$out/$arch/debs" "$out/$arch/files"
    image=$(chroot "$root" apt-cache depends "linux-image-$arch:$arch" | sed -n 's/.*Depends: \(linux-image-[^: ]*\).*/\1/p' | head -1)
    [ -n "$image" ] || { say "no kernel package for $arch in $suite"; exit 1; }
    # Newer kernel packages are split into the image and its modules.
    parts=$(chroot "$root" apt-cache depends "$image:$arch" | sed -n 's/.*Depends: \(linux-\(binary\|modules\)-[^: ]*\).*/\1/p' | sort -u)
    (cd "$out/$arch/debs" && rm -f -- *.deb && chroot "$root" sh -c \
      "cd /tmp && rm -f *.deb && apt-get ${aptopt[*]} download $(printf "%s:$arch " $image $parts) busybox-static:$arch" && mv "$root"/tmp/*.deb .)
    for deb in "$out/$arch"/debs/*.deb; do dpkg-deb -x "$deb" "$out/$arch/files"; done
    kernel=$(find "$out/$arch/files" -name 'vmlinuz*' -type f | head -1)
    cp "$kernel" "$out/$arch/vmlinuz"
  fi
done
say "trap plugin"
gcc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$out/trap.so" "$here/trap/trap.c"
say "done: $out"
