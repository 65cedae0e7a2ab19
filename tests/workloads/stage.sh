#!/bin/sh
# Shows the checkout (the current folder) at /srv/product, in a mount namespace that the caller made, and plays there:
# stage.sh PYTHON NAME PROFILE [--plain]. PYTHON and PROFILE may be paths in the checkout.
set -eu
checkout=$PWD
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/product
mount --bind "$checkout" /srv/product
mount -o remount,bind,ro /srv/product
cd /srv/product

seen() {
    case $1 in
        "$checkout"/*) printf /srv/product%s "${1#"$checkout"}" ;;
        *) printf %s "$1" ;;
    esac
}

python=$(seen "$1") name=$2 profile=$(seen "$3")
shift 3
exec "$python" -m tests.workloads.stage "$name" "$profile" "$@"
