#!/bin/sh
# Make this checkout runnable on Debian 12 (root, nothing installed by hand); safe to repeat.
#
#   ./setup.sh run     what `ebpfaudit` and the incident need
#   ./setup.sh test    that, and what lint, types and tests need
#   ./setup.sh unit    no distribution packages: enough for `make unit` without root and without bcc
#
# It installs distribution packages only where one is missing, and touches nothing else outside .venv.
set -eu
cd "$(dirname "$0")"
purpose=${1:-run}
python=${PYTHON:-/usr/bin/python3}  # the distribution's: only that one can import the distribution's bcc

packages="python3-bpfcc python3-venv gcc libc6-dev make git iproute2 procps openssh-client openssh-server"
case $purpose in
    run) extra=run ;;
    test) extra=dev packages="$packages clang-format sudo zstd" ;;
    unit) extra=dev packages="" ;;
    *) echo "usage: ./setup.sh run|test|unit" >&2 && exit 2 ;;
esac

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

missing_packages() {
    for package in $packages; do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=none
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

install_packages() {
    [ "$(id -u)" = 0 ] || fail "missing packages: $*- run this as root once, or install them yourself"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    case " $* " in *" openssh-server "*) keep_sshd_from_starting ;; esac
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    # Not recommends: python3-bpfcc's would bring kernel headers, which ebpfaudit does without.
    apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >/dev/null
    case " $* " in *" openssh-server "*) leave_sshd_disabled ;; esac
}

# The incident runs its own sshd in a network namespace; the host must not get one by the way.
keep_sshd_from_starting() {
    [ -e /usr/sbin/policy-rc.d ] && return
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
}

leave_sshd_disabled() {
    if [ -d /run/systemd/system ]; then
        systemctl --quiet disable --now ssh.service
    else
        update-rc.d ssh disable >/dev/null 2>&1 || true  # no init system at all: nothing to disable
    fi
}

venv_is_sound() {
    [ -x .venv/bin/pip ] && grep -qx 'include-system-site-packages = true' .venv/pyvenv.cfg &&
        .venv/bin/pip --version >/dev/null 2>&1  # false after the checkout was moved
}

if [ -n "$packages" ]; then
    if command -v dpkg-query >/dev/null; then
        missing=$(missing_packages)
        # shellcheck disable=SC2086  # a list of words
        [ -z "$missing" ] || install_packages $missing
    else
        say "not a Debian system: please have the equivalents of $packages"
    fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11"
now="$PWD $(cat pyproject.toml setup.sh | sha256sum)"

already() { [ "$(cat ".venv/.setup-$1" 2>/dev/null)" = "$now" ]; }

if ! already dev && ! already "$extra"; then
    venv_is_sound || "$python" -m venv --clear --system-site-packages .venv
    say "installing ebpfaudit into .venv"
    case $extra in
        run) .venv/bin/pip install --quiet --editable . pytest ;;  # the incident's ordinary work runs pytest
        dev) .venv/bin/pip install --quiet --editable ".[dev]" ;;
    esac
    echo "$now" >".venv/.setup-$extra"
fi
