#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# A kit of patchproof: it shows one claim about a kernel again.
#
#     sh FILE                    boot the kernel, repeat the operations, compare the answers
#     sh FILE --unpack FOLDER    only unpack; FOLDER/README tells what there is
#     sh FILE --gdb [PORT]       wait for a debugger on this port of 127.0.0.1 (default: 1234)
#
# Exit code 0: the kernel conforms.  1: the fault was shown again.  2: it could not be said.
#
# In the environment: QEMU (the program, version 7.0 or later), ACCEL (tcg or kvm; default: tcg),
# KERNEL (another bzImage to try, as one with a fix).
#
# Behind this script are compressed files.
set -u

payload_line=0
folder=
qemu_pid=

fail() {
	printf '%s\n' "$*" >&2
	exit 2
}

# Called at every end of this script, by its trap.
# shellcheck disable=SC2317,SC2329
clean_up() {
	[ -z "$qemu_pid" ] || kill "$qemu_pid" 2>/dev/null
	[ -z "$folder" ] || rm -rf "$folder"
}

unpack() {
	tail -n "+$payload_line" "$self" >"$1/payload.tar.gz" || fail "$self cannot be read."
	gzip -t "$1/payload.tar.gz" 2>/dev/null ||
		fail "$self is damaged: the files in it cannot be unpacked. Get the kit again."
	gzip -dc "$1/payload.tar.gz" | tar -xf - -C "$1" || fail "$self cannot be unpacked to $1."
	rm -f "$1/payload.tar.gz"
}

setting() {
	sed -n "s/^$1 //p" "$folder/settings"
}

find_qemu() {
	qemu=${QEMU:-qemu-system-x86_64}
	command -v "$qemu" >/dev/null 2>&1 ||
		fail "There is no $qemu here. Install QEMU (Debian: qemu-system-x86), or name it: QEMU=/path/to/it."
	major=$("$qemu" -version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9][0-9]*\)\..*/\1/p')
	[ -n "$major" ] || fail "$qemu does not answer as QEMU does. Name another one: QEMU=/path/to/it."
	[ "$major" -ge 7 ] || fail "$qemu is version $major of QEMU. The kit needs version 7.0 or later."
	offered=$("$qemu" -device help 2>/dev/null)
	for device in $(setting device); do
		case $offered in
		*"name \"$device\""*) ;;
		*) fail "$qemu is built without the device $device, which the kit needs. Debian's QEMU has it." ;;
		esac
	done
}

# Boot the kernel in $folder, which has all files; leave console.log and kit.log there.
boot() {
	accelerator=${ACCEL:-tcg}
	append=$(cat "$folder/append")
	case $accelerator in
	tcg) set -- -accel tcg,thread=multi && append="$append $(setting tcg)" ;;
	kvm) set -- -accel kvm ;;
	*) fail "ACCEL is tcg or kvm, not $accelerator." ;;
	esac
	set -- "$@" -cpu max
	if [ -n "$port" ]; then
		set -- "$@" -S -gdb "tcp:127.0.0.1:$port"
		append="$append kit.patient"
		seconds=1000000
		printf 'QEMU waits for a debugger: gdb -ex "target remote 127.0.0.1:%s"\n' "$port"
	else
		seconds=$(setting seconds)
	fi
	while IFS= read -r argument; do
		set -- "$@" "$argument"
	done <"$folder/machine"
	set -- "$@" -kernel "$kernel" -initrd initrd.cpio -append "$append"
	printf 'Booting %s under %s ...\n' "${KERNEL:-the kernel}" "$accelerator"
	(cd "$folder" && exec timeout -k 5 "$seconds" "$qemu" "$@" </dev/null >qemu.log 2>&1) &
	qemu_pid=$!
	wait "$qemu_pid"
	status=$?
	qemu_pid=
	[ -s "$folder/console.log" ] || fail "QEMU did not boot the kernel (exit status $status):
$(cat "$folder/qemu.log")"
	touch "$folder/kit.log"
	tr -d '\r' <"$folder/console.log" >"$folder/console.txt"
}

# Keep the console, and say that nothing can be said.
unsaid() {
	kept=$(mktemp "${TMPDIR:-/tmp}/kit-console.XXXXXX") &&
		cat "$folder/console.txt" "$folder/kit.log" "$folder/qemu.log" >"$kept"
	fail "Could not say. $1
The console, and what was done: $kept"
}

shown() {
	printf 'SHOWN AGAIN. %s\n' "$1"
	exit 1
}

conforms() {
	printf 'CONFORMS. %s\n' "$1"
	exit 0
}

complained() {
	[ -s "$folder/complaints" ] && grep -q -f "$folder/complaints" "$folder/console.txt"
}

judge() {
	verdict=$(sed -n 's/^verdict: \([a-z]*\): .*/\1/p' "$folder/kit.log" | tail -n 1)
	sentence=$(sed -n 's/^verdict: [a-z]*: //p' "$folder/kit.log" | tail -n 1)
	sed -n '/^report:$/,/^verdict: /p' "$folder/kit.log" | sed -e '/^report:$/d' -e '/^verdict: /d'
	faults=$(grep -E "$(cat "$folder/faults")" "$folder/console.txt" | head -n 3)
	[ -z "$faults" ] || printf '%s\n' "$faults" | sed 's/^/  the kernel said: /'
	kind=$(setting kind)
	case $kind in
	complaint | death)
		complained && shown "The kernel complains as in the run."
		[ "$verdict" != silent ] || [ -z "$faults" ] || unsaid "The kernel complains of something else."
		[ "$verdict" != silent ] || conforms "The kernel does not complain. $sentence"
		[ "$kind" != death ] || [ -n "$verdict" ] || [ ! -s "$folder/kit.log" ] ||
			shown "The kernel dies, or does not answer any more, as in the run."
		;;
	esac
	case $verdict in
	shown) shown "$sentence" ;;
	conforms) conforms "$sentence" ;;
	unsaid) unsaid "$sentence" ;;
	esac
	[ "$status" != 124 ] || unsaid "The guest did not end within $seconds s."
	unsaid "The guest ended before it came to a verdict."
}

main() {
	self=$0
	port=
	target=
	case ${1-} in
	'') ;;
	--unpack) target=${2:?a folder to unpack to} ;;
	--gdb) port=${2:-1234} ;;
	*)
		sed -n '/^# A kit/,/^# KERNEL/s/^# \{0,1\}//p' "$self"
		[ "$1" = --help ] && exit 0
		exit 2
		;;
	esac
	if [ -n "$target" ]; then
		mkdir -p "$target" || fail "The folder $target cannot be made."
		unpack "$target"
		printf 'Unpacked. Read %s/README.\n' "$target"
		exit 0
	fi
	for program in tail gzip tar sed grep mktemp timeout; do
		command -v "$program" >/dev/null 2>&1 || fail "There is no program $program here, which the kit needs."
	done
	kernel=bzImage
	if [ -n "${KERNEL-}" ]; then
		[ -r "$KERNEL" ] || fail "The kernel $KERNEL cannot be read."
		kernel=$(cd "$(dirname "$KERNEL")" && pwd)/$(basename "$KERNEL")
	fi
	trap clean_up EXIT
	trap 'exit 130' INT TERM HUP
	folder=$(mktemp -d "${TMPDIR:-/tmp}/kit.XXXXXX") || fail "No temporary folder could be made in ${TMPDIR:-/tmp}."
	unpack "$folder"
	find_qemu
	cat "$folder/about"
	boot
	judge
}

main "$@"
# The shell reads on from here: nothing behind this line is for it.
# shellcheck disable=SC2317
exit 2
