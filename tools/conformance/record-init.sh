#!/bin/busybox sh
# The first process of a recorded guest: the NVMe disk is written, read back and compared through the IOMMU, then all is over.
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
b=/bin/busybox
while read -r m; do $b insmod "/mods/$m" || echo "@@ insmod $m failed"; done </mods/order
n=0
while [ ! -b /dev/nvme0n1 ] && [ $n -lt 50 ]; do $b sleep 0.2; n=$((n + 1)); done
[ -b /dev/nvme0n1 ] || echo "@@ no disk"
$b dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null
$b dd if=/tmp/a of=/dev/nvme0n1 bs=64k conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
$b dd if=/dev/nvme0n1 of=/tmp/b bs=64k count=32 2>/dev/null
$b cmp /tmp/a /tmp/b && echo "@@ verified on $($b nproc) processors, kernel $($b uname -r)"
$b sync
$b poweroff -f
