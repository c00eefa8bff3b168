"""Shell scripts that list and bind the PCI devices of a guest."""

from __future__ import annotations

# One line per device below a root port: port, address, vendor, device, driver, driver_override,
# then start,end,flags of each resource.  One process lists all: each costs tens of milliseconds here.
LIST_DEVICES = r"""
cd /sys/bus/pci/devices || exit
for port in "$@"; do
    for dir in "$port"/0000:*:??.?; do
        [ -e "$dir/vendor" ] || continue
        driver=-; [ -e "$dir/driver" ] && driver=$(readlink "$dir/driver")
        group=-; [ -e "$dir/iommu_group" ] && group=$(readlink "$dir/iommu_group")
        read -r vendor <"$dir/vendor"; read -r device <"$dir/device"
        read -r override <"$dir/driver_override"
        printf "%s " "$port" "${dir##*/}" "$vendor" "$device" "${group##*/}" "${driver##*/}" "$override"
        while read -r start end flags; do printf " %s,%s,%s" "$start" "$end" "$flags"; done <"$dir/resource"
        echo
    done
done
"""

REPLUG = r"""
dir=/sys/bus/pci/devices/$1
echo 1 >"$dir/remove" && echo 1 >/sys/bus/pci/rescan && [ -e "$dir" ]
"""

# Wait until the kernel has runtime-suspended the device $1.
AWAIT_SUSPEND = r"""
tries=0
until read -r state <"/sys/bus/pci/devices/$1/power/runtime_status" && [ "$state" = suspended ]; do
    tries=$((tries + 1))
    if [ $tries -gt 50000 ]; then echo "its runtime status is still $state" >&2; exit 1; fi
done
"""

# Start to unbind $1 while it is open, and return once the driver waits for the last close.
BEGIN_UNBIND = r"""
dir=/sys/bus/pci/devices/$1
(echo "$1" >"$dir/driver/unbind") >/dev/null 2>&1 &
tries=0
while [ -e "$dir/vfio-dev" ]; do
    tries=$((tries + 1))
    if [ $tries -gt 50000 ]; then echo "its driver does not begin to" >&2; exit 1; fi
done
"""

# Wait until that unbind is complete.
AWAIT_UNBOUND = r"""
while [ -e "/sys/bus/pci/devices/$1/driver" ]; do :; done
"""
