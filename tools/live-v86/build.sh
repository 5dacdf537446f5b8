#!/usr/bin/env bash
# Builds the guests that run in v86: Linux for i386 from the distribution's source package, busybox, SeaBIOS images.
#   tools/live-v86/build.sh [6.1|7.2|7.2-unpatched|guest ...] (default: all)    output: .cache/live-v86 (VIOMMU_LIVE_V86)
# `guest` builds the guest's own programs only; they come with 7.2 as well.
# Needs a Debian machine; missing build tools are installed when run as root. About 5 minutes per kernel on two cores; a
# kernel that is there already, of the same kernel.config, is not built again. Nothing of it is ever committed: the kernel is
# GPL-2.0.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${VIOMMU_LIVE_V86:-$here/../../.cache/live-v86}
mkdir -p "$out"
out=$(cd "$out" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
say() { echo "live:build: $*" >&2; }

need=()
for pair in gcc:gcc make:make flex:flex bison:bison bc:bc xz:xz-utils cpio:cpio m4:m4 chromium:chromium; do
  command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
if [ ${#need[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { say "missing tools; run: apt-get install ${need[*]}"; exit 1; }
  say "installing ${need[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
fi

# The emulator itself, the exact version its adapter is made for. Not into the checkout: npm leaves an optional peer out there.
v86=0.5.462
grep -qs "\"version\": \"$v86\"" "$out/node_modules/v86/package.json" || {
  say "installing v86 $v86"
  npm install --prefix "$out" --no-save --no-audit --no-fund --silent "v86@$v86" || { say "cannot install v86 from the npm registry"; exit 1; }
}

# A private package list: another architecture or suite does not touch the machine's own configuration.
fetch() { # SUITE ARCH PACKAGE  -> unpacks into $out/pkg/PACKAGE
  local suite=$1 arch=$2 package=$3 state=$out/apt/$1-$2
  [ -d "$out/pkg/$package" ] && return
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/parts" "$out/debs"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
  local opt=(-qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State::lists=$state/lists"
    -o "Dir::Cache=$state/cache" -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=$state/parts"
    -o Acquire::Check-Valid-Until=false)
  say "fetching $package ($suite, $arch)"
  apt-get "${opt[@]}" update || { say "cannot reach $mirror (set DEBIAN_MIRROR)"; exit 1; }
  (cd "$out/debs" && apt-get "${opt[@]}" download "$package") 2>/dev/null || { say "no package $package in $suite"; exit 1; }
  mkdir -p "$out/pkg"
  dpkg-deb -x "$(ls -t "$out"/debs/"${package}"_*.deb | head -1)" "$out/pkg/$package"
}

fetch bookworm i386 busybox-static
fetch bookworm amd64 seabios
cp "$out/pkg/busybox-static/bin/busybox" "$out/busybox"
cp "$out/pkg/seabios/usr/share/seabios/bios-256k.bin" "$out/seabios.bin"
cp "$out/pkg/seabios/usr/share/seabios/vgabios-stdvga.bin" "$out/vgabios.bin"

canonical_fix() { # the two-line change described in canonical-address.patch.md
  python3 - "$1/drivers/iommu/intel/prq.c" <<'PY'
import re, sys
path = sys.argv[1]
text = open(path).read()
start = text.index('is_canonical_address(u64 addr)')
body = text[start:text.index('\n}', start)]
new = body[:body.index('{') + 1] + '\n\ts64 saddr = (s64)addr;\n\n\treturn ((saddr << 16) >> 16) == saddr;'
open(path, 'w').write(text.replace(body, new))
PY
}

build() {
  local name=$1 version=${1%-unpatched} suite=bookworm
  [ -e "$out/bzImage-$name" ] && cmp -s "$here/kernel.config" "$out/kernel-$name.config" && { say "bzImage-$name is there"; return; }
  [ "$version" = 6.1 ] || suite=${DEBIAN_SUITE:-sid}
  fetch "$suite" amd64 "linux-source-$version"
  local tree=$out/src-$name
  if [ ! -e "$tree/Makefile" ]; then
    local new=$tree.new twin=$out/src-7.2
    [ "$name" != 7.2 ] || twin=$out/src-7.2-unpatched
    rm -rf "$new" "$tree"
    if [ "$version" = 7.2 ] && [ -e "$twin/vmlinux" ]; then
      # The two differ in one file: the other's objects are good.
      say "copying the tree of the other 7.2"
      cp -a "$twin" "$new"
      tar -xJOf "$out/pkg/linux-source-$version"/usr/src/linux-source-*.tar.xz --wildcards '*/drivers/iommu/intel/prq.c' \
        >"$new/drivers/iommu/intel/prq.c"
    else
      say "unpacking linux-source-$version"
      mkdir -p "$new"
      tar -xJf "$out/pkg/linux-source-$version"/usr/src/linux-source-*.tar.xz -C "$new" --strip-components=1
    fi
    [ "$name" != 7.2 ] || canonical_fix "$new"
    # Only a whole tree gets the name that is looked for.
    mv "$new" "$tree"
  fi
  say "building bzImage-$name (log: $out/build-$name.log)"
  cp "$here/kernel.config" "$tree/viommu.config"
  (
    cd "$tree"
    export KCONFIG_CONFIG=.config KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_USER=viommu KBUILD_BUILD_HOST=viommu
    make ARCH=i386 tinyconfig
    scripts/kconfig/merge_config.sh -m .config viommu.config
    make ARCH=i386 olddefconfig
    make ARCH=i386 -j"$(nproc)" bzImage
  ) >"$out/build-$name.log" 2>&1 || { tail -5 "$out/build-$name.log" >&2; exit 1; }
  local absent
  absent=$(grep '=y$' "$tree/viommu.config" | grep -vxFf "$tree/.config" | tr '\n' ' ') || true
  [ -z "$absent" ] || say "options Linux $version does not have: $absent"
  cp "$tree/arch/x86/boot/bzImage" "$out/bzImage-$name"
  cp "$tree/viommu.config" "$out/kernel-$name.config"
}

# The guest's own programs: no libc, the headers come with the kernel's source.
guest() {
  local tree=$out/src-7.2 source program
  [ -e "$tree/Makefile" ] || tree=$out/src-7.2-unpatched
  [ -e "$tree/Makefile" ] || { say "the guest's programs need the source of 7.2: tools/live-v86/build.sh 7.2"; exit 1; }
  [ -e "$tree/usr/include/linux/iommufd.h" ] || make -s -C "$tree" ARCH=i386 headers >>"$out/build-guest.log" 2>&1
  for source in "$here"/guest/*.c; do
    program=$out/$(basename "$source" .c)
    [ "$program" -nt "$source" ] && continue
    say "building $(basename "$program")"
    gcc -m32 -march=i686 -Os -Wall -static -nostdlib -fno-pic -no-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
      -I "$tree/usr/include" -include "$tree/tools/include/nolibc/nolibc.h" -s -o "$program" "$source"
  done
}

[ $# -gt 0 ] || set -- 6.1 7.2 7.2-unpatched
for k in "$@"; do
  case $k in
    6.1) build "$k" ;;
    7.2 | 7.2-unpatched) build "$k" && guest ;;
    guest) guest ;;
    *) say "unknown kernel '$k': 6.1, 7.2 or 7.2-unpatched"; exit 2 ;;
  esac
done
say "done: $out"
