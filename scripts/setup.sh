#!/bin/sh
# Installs what `make demo` and `make test` need on a Debian-like machine. Quick and silent when
# everything is there already; the machine's own apt sources stay as they are.
#
#   setup.sh demo    QEMU 7.2 or later: 10.0 from backports on Debian 12, else the distribution's
#   setup.sh test    that, and: QEMU 7.2 unpacked in target/tools/qemu-7.2 (not installed), a Linux
#                    kernel in target/tools/linux, static busybox, cpio, iproute2, and a browser
#                    (chromium) where the distribution has one
set -eu

tools=$(cd "$(dirname "$0")/.." && pwd)/target/tools
scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

main() {
    case ${1:-} in
        demo) need_qemu ;;
        test) need_qemu; need_packages; need_old_qemu; need_linux; want_browser ;;
        *) echo "usage: $0 demo|test" >&2; exit 2 ;;
    esac
}

# --- What is needed -----------------------------------------------------------------------------

need_qemu() {
    version=$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9]*\.[0-9]*\).*/\1/p')
    if at_least_7_2 "$version"; then return; fi
    can_install "qemu-system-x86_64, version 7.2 or later (Fedora: qemu-system-x86-core, Arch: \
qemu-system-x86, openSUSE: qemu-x86, Alpine: qemu-system-x86_64)"
    if [ "$(codename)" = bookworm ] && with_backports; then
        say "QEMU 10.0 from bookworm-backports"
        set --
        for package in qemu-system-x86 qemu-system-common qemu-system-data seabios; do
            set -- "$@" "$package/bookworm-backports"
        done
        if install_packages -o "Dir::Etc::sourceparts=$scratch/sources" "$@"; then return; fi
        echo "setup: that failed; taking the distribution's own QEMU" >&2
    fi
    say "QEMU (the distribution's own)"
    refresh
    install_packages qemu-system-x86 || give_up "apt-get install qemu-system-x86 failed (see above)"
}

need_packages() {
    set --
    # A busybox that ldd can list is not static, and would not run in the tests' guest.
    if ! [ -x /usr/bin/busybox ] || ldd /usr/bin/busybox >/dev/null 2>&1; then
        set -- "$@" busybox-static
    fi
    command -v cpio >/dev/null || set -- "$@" cpio
    command -v ip >/dev/null || [ -x /sbin/ip ] || set -- "$@" iproute2
    if [ $# -eq 0 ]; then return; fi
    can_install "$*"
    refresh
    for package; do say "$package"; done
    install_packages "$@" || give_up "apt-get install $* failed (see above)"
}

# The oldest QEMU that landfall works with, for tests, beside the one that is installed.
need_old_qemu() {
    if [ -e "$tools/qemu-7.2/usr/bin/qemu-system-x86_64" ]; then return; fi
    can_download "QEMU 7.2 and seabios 1.16.2, unpacked in $tools/qemu-7.2"
    set --
    for package in qemu-system-x86 qemu-system-common qemu-system-data; do
        # Each has its own rebuilds, so each its own version.
        if old=$(find_version $package '^1:7[.]2'); then set -- "$@" "$package=$old"; fi
    done
    if [ $# -lt 3 ]; then
        echo "setup: no QEMU 7.2 in this distribution; the tests against it will be skipped" >&2
        return
    fi
    say "QEMU 7.2 in $tools/qemu-7.2"
    if bios=$(find_version seabios '^1[.]16[.]2-1'); then set -- "$@" "seabios=$bios"; fi
    unpack qemu-7.2 "$@"
    missing=$(ldd "$tools/qemu-7.2/usr/bin/qemu-system-x86_64" | awk '/not found/ { printf "%s ", $1 }')
    if [ -n "$missing" ]; then
        echo "setup: QEMU 7.2 lacks libraries: $missing(its tests will be skipped)" >&2
    fi
}

# Debian's kernels for virtual machines, for guests that run Linux: the newest one, and one that still has
# cpuset in cgroup v1.
need_linux() {
    unpack_kernel linux '6[.]'
    unpack_kernel linux-6.1 '6[.]1[.]'
}

# Unpacks the newest kernel whose version matches a pattern, unless it is there already.
unpack_kernel() {
    for kernel in "$tools/$1"/boot/vmlinuz-*; do
        if [ -e "$kernel" ]; then return; fi
    done
    can_download "a Linux kernel for virtual machines, as $tools/$1/boot/vmlinuz-VERSION"
    if ! image=$(newest_kernel "$2"); then
        echo "setup: no linux-image-$2*-cloud-amd64 in this distribution; tests that boot it will be skipped" >&2
        return
    fi
    say "$image in $tools/$1"
    unpack "$1" "$image"
}

# For the tests of the page. Without one they are skipped.
want_browser() {
    if command -v chromedriver >/dev/null && command -v chromium >/dev/null; then return; fi
    if ! command -v apt-get >/dev/null || ! as_root true 2>/dev/null; then
        echo "setup: no chromium with its chromedriver here; the tests of the page will be skipped" >&2
        return
    fi
    say "chromium and its driver"
    refresh
    install_packages chromium chromium-driver || echo "setup: no chromium from this distribution; \
the tests of the page will be skipped" >&2
}

# --- How it is had ------------------------------------------------------------------------------

say() { echo "setup: installing $1"; }

give_up() {
    echo "setup: $1" >&2
    exit 1
}

at_least_7_2() {
    [ -n "$1" ] || return 1
    [ "${1%%.*}" -gt 7 ] || { [ "${1%%.*}" -eq 7 ] && [ "${1#*.}" -ge 2 ]; }
}

# shellcheck disable=SC1091
codename() { (. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}") || true; }

# Leaves with what to install by hand, unless apt can be run as root.
can_install() {
    command -v apt-get >/dev/null || give_up "there is no apt-get here; please install: $1"
    as_root true 2>/dev/null || give_up "this takes root (no sudo without a password); please install: $1"
}

can_download() {
    command -v apt-get >/dev/null || give_up "there is no apt-get here; please provide: $1"
    make_scratch
}

# Asks for a password only where a person can type one.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        return 1
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# What apt says is of interest only if it fails.
apt_get() {
    make_scratch
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" \
        >"$scratch/apt.log" 2>&1; then
        tail -n 5 "$scratch/apt.log" >&2
        return 1
    fi
}

install_packages() { apt_get install --no-install-recommends "$@"; }

# Refreshes the package lists, once.
refresh() {
    make_scratch
    if [ -e "$scratch/refreshed" ]; then return; fi
    apt_get update || echo "setup: apt-get update failed; going on with the lists there are" >&2
    : >"$scratch/refreshed"
}

make_scratch() { [ -n "$scratch" ] || scratch=$(mktemp -d); }

# A copy of the machine's apt sources with the backports added; false if they are not reachable.
with_backports() {
    make_scratch
    mkdir -p "$scratch/sources"
    for file in /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [ -e "$file" ]; then cp "$file" "$scratch/sources/"; fi
    done
    mirror=$(cat /etc/apt/sources.list "$scratch"/sources/* 2>/dev/null |
        sed -n 's,^[^#]*\(https\{0\,1\}://[^ ]*/debian\)/\{0\,1\}\( .*\)\{0\,1\}$,\1,p' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "${mirror:-http://deb.debian.org/debian} bookworm-backports main" \
        >"$scratch/sources/landfall-backports.list"
    # update succeeds although a source is not reachable: what counts is that its packages show.
    apt_get -o "Dir::Etc::sourceparts=$scratch/sources" update || return 1
    apt-cache -o "Dir::Etc::sourceparts=$scratch/sources" madison qemu-system-x86 |
        grep -q bookworm-backports
}

# The newest version of a package that matches a pattern.
find_version() {
    first_version "$@" || { lists_for_download && first_version "$@"; }
}

first_version() {
    apt-cache madison "$1" 2>/dev/null | awk -F ' *[|] *' -v wanted="$2" '
        $2 ~ wanted && !found { print $2; found = 1 }
        END { exit !found }'
}

newest_kernel() {
    last_kernel "$1" || { lists_for_download && last_kernel "$1"; }
}

# The signed package of the newest version, else the unsigned one.
last_kernel() {
    for suffix in '' -unsigned; do
        image=$(apt-cache search --names-only "^linux-image-$1.*-cloud-amd64$suffix\$" |
            awk '/^linux-image-6[.][0-9]+[.]/ { print $1 }' | sort -V | tail -n 1)
        if [ -n "$image" ]; then echo "$image"; return; fi
    done
    return 1
}

# A fresh machine has no package lists yet.
lists_for_download() {
    can_install "the package lists (run: apt-get update)"
    refresh
}

# Downloads packages and unpacks them in one directory of the tools; all or nothing.
unpack() {
    directory=$1
    shift
    mkdir -p "$tools"
    new=$tools/.$directory.$$
    rm -rf "$new"
    mkdir -p "$new/root"
    make_scratch
    (cd "$new" && apt-get -q download "$@" >"$scratch/apt.log" 2>&1) || {
        # The lists may name a version that the mirror no longer has.
        rm -rf "$new"
        tail -n 5 "$scratch/apt.log" >&2
        give_up "cannot download $*; if the mirror no longer has them, run apt-get update"
    }
    for package in "$new"/*.deb; do dpkg -x "$package" "$new/root"; done
    rm -rf "${tools:?}/$directory"
    mv "$new/root" "$tools/$directory"
    rm -rf "$new"
}

main "$@"
