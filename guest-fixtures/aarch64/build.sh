#!/bin/sh
# Builds the guest images with Debian's cross compiler (apt-get install gcc-aarch64-linux-gnu). The images are committed;
# run this after changing a source.
set -eu
cd "$(dirname "$0")"
command -v aarch64-linux-gnu-gcc >/dev/null || {
  echo "aarch64-linux-gnu-gcc is missing; run: apt-get install gcc-aarch64-linux-gnu" >&2
  exit 1
}
for source in src/*.c; do
  name=$(basename "$source" .c)
  [ "$name" = guest ] && continue
  # Guests of the architecture profile sit on -device arm-smmuv3.
  case $name in arch-*) where=-DSMMU=0x0c000000ul ;; *) where= ;; esac
  aarch64-linux-gnu-gcc -std=c11 -O1 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -mgeneral-regs-only \
    -mstrict-align -fno-stack-protector -fno-pie -no-pie -fno-tree-loop-distribute-patterns -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096 \
    -Wl,--no-warn-rwx-segments $where -T src/guest.ld -o "images/$name.elf" src/start.S src/guest.c "$source"
  aarch64-linux-gnu-strip "images/$name.elf"
done
