# packages: installs the Debian packages that lists name, when some are missing. Sourced.
#
# A list has one package a line, and comments behind #. Nothing is done, and no right is asked for,
# when all of them are there. No service is started by it: a machine that is only to try or to test
# this should not begin to run a mail server and a name server of its own. Nothing is removed either:
# a package that another one of the machine stands against is an error.

# install_packages LIST...
install_packages() {
    local wanted missing as_root=()
    mapfile -t wanted < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$@" | sort -u)
    mapfile -t missing < <(
        dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${wanted[@]}" 2>/dev/null |
            sed -n 's/ installed$//p' | sort -u |
            comm -23 <(printf '%s\n' "${wanted[@]}") -)
    [ ${#missing[@]} -gt 0 ] || return 0

    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "install these packages first (sudo is missing): ${missing[*]}" >&2
            return 1
        }
        as_root=(sudo)
    fi
    echo "installing ${#missing[@]} Debian packages: ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] && policy=
    local log apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    log=$(mktemp)
    local code=0
    (
        if [ "$policy" ]; then
            trap '"${as_root[@]}" rm -f "$policy"' EXIT # also when it is interrupted
            printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy"
            "${as_root[@]}" chmod 755 "$policy"
        fi
        "${apt[@]}" update &&
            "${apt[@]}" install --no-install-recommends --no-remove "${missing[@]}"
    ) </dev/null >"$log" 2>&1 || code=$?
    if [ "$code" != 0 ]; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        echo "the packages could not be installed" >&2
        return 1
    fi
    rm -f "$log"
}
