# shellcheck shell=bash
# What train.sh and data.sh share; trainer/cloud/_user_data.py puts the settings before it and one of the two behind it.
# cloud-init runs the whole at the first boot: it installs itself as a unit of systemd, which runs it at each boot.
# So each step looks first whether it is done, and a machine that dies anywhere goes on when it comes back.
set -euo pipefail
umask 022
PROGRAM=/usr/local/sbin/trainer-machine
STATE=/var/lib/trainer-machine
CHECKOUT=/opt/trainer
LABEL=trainer-data # of the file system with the data set
# shellcheck disable=SC2034 # used by what follows
VOLUME=/mnt/$LABEL
METADATA=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}
export HOME=${HOME:-/root} AWS_DEFAULT_REGION=$REGION DEBIAN_FRONTEND=noninteractive

say() { echo "$*" >&2; }
fail() { # what no second try will mend
    say "$*"
    exit 2
}

metadata() { # metadata PATH: what EC2 knows of this instance; fails where it says nothing
    local token
    token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$METADATA/latest/api/token") &&
        curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$METADATA/latest/$1"
}

aws_cli() { # AWS's own images have the command; elsewhere uv brings it
    if command -v aws >/dev/null; then
        timeout 60 aws "$@"
    else
        PATH=$CHECKOUT/.uv/bin:$PATH timeout 300 uv tool run --quiet --from awscli aws "$@"
    fi
}

report() { # report STATE [WORDS]: a line on the console, which `trainer cloud status` reads; that needs no rights in AWS
    cut -d ' ' -f 1 /proc/uptime >"$STATE/starts/$(cat /proc/sys/kernel/random/boot_id)"
    local spent
    spent=$(awk '{ seconds += $1 } END { printf "starts=%d hours=%.2f", NR, seconds / 3600 }' "$STATE"/starts/*)
    # What comes from a program becomes one line without colours and control characters.
    printf %s "trainer: state=$1 $spent ${2-}" | sed 's/\x1b\[[0-9;]*[A-Za-z]//g' | tr -c '[:print:]' ' ' |
        cut -c 1-400 >"$STATE/state"
    say "$(cat "$STATE/state")"
    cat "$STATE/state" >>/dev/console || true
}
why() { echo "reason=$(tail -n 1 "$STATE/log")"; }

secrets() { # secrets PARAMETER: lines KEY=VALUE of an SSM SecureString, which nothing but its user ever sees
    [ -z "$1" ] || aws_cli ssm get-parameter --region "$REGION" --name "$1" --with-decryption \
        --query Parameter.Value --output text
}

# /dev/sdf is called so only where it is attached: on Nitro it is /dev/nvme1n1 here, or another number after the next
# boot. What stays is the serial number, which is the volume's id, and the label of the file system.
find_volume() { # prints the device file of $DEVICE, `vol-…` or the name it was attached under; fails if there is none yet
    local name model found=()
    if [ "${DEVICE#vol-}" != "$DEVICE" ]; then
        lsblk -dnpo NAME,SERIAL | awk -v serial="vol${DEVICE#vol-}" '$2 == serial { print $1; n++ } END { exit !n }'
        return
    fi
    for name in "$DEVICE" "${DEVICE/#\/dev\/sd/\/dev\/xvd}"; do
        [ -b "$name" ] && readlink -f "$name" && return
    done
    blkid -L "$LABEL" && return
    while read -r name model; do # the only other volume of EBS there is
        [ "$model" != 'Amazon Elastic Block Store' ] || [ -n "$(lsblk -nro MOUNTPOINT "$name" | tr -d '\n')" ] ||
            found+=("$name")
    done < <(lsblk -dnpo NAME,MODEL)
    [ "${#found[@]}" = 1 ] && echo "${found[0]}"
}

wait_for_volume() { # a volume is attached some time after the machine has begun to boot
    for _ in $(seq 60); do
        find_volume && return
        sleep 10
    done
    fail "no volume $DEVICE has been attached to this instance in 10 minutes"
}

checkout() { # checkout REVISION: the repository as it is there; without REVISION, its default branch
    git init --quiet "$CHECKOUT"
    cd "$CHECKOUT"
    rm -f .git/*.lock # of a git that was killed
    git remote add origin "$REPOSITORY" 2>/dev/null || git remote set-url origin "$REPOSITORY"
    if [ "${#1}" = 40 ] && git cat-file -e "$1^{commit}" 2>/dev/null; then # the next boot needs no network
        git checkout --quiet --force --detach "$1"
    elif git fetch --quiet --depth 1 origin "${1:-HEAD}"; then
        git checkout --quiet --force --detach FETCH_HEAD
    else # not every server hands out any commit
        git fetch --quiet --tags origin
        git checkout --quiet --force --detach "${1:-origin/HEAD}"
    fi
}

attempt() { # attempt STEP: as a process of its own, so that `set -e` holds; again after what may pass by itself
    local pause code pauses=(15 60 120)
    # What has begun once is not given up so soon: a spot machine that stops itself is never started again by AWS.
    [ "$(find "$STATE/starts" -type f | wc -l)" -lt 2 ] || pauses+=(300 600 900 900)
    for pause in "${pauses[@]}" 0; do
        code=0
        "$PROGRAM" "$1" 2>&1 | tee "$STATE/log" || code=$?
        [ "$code" != 0 ] || return 0
        [ "$code" != 2 ] || return 2
        sleep "$pause"
    done
    return 1
}

power_off() { # power_off WHEN: what is not asked for any more costs nothing any more
    if [ "$KEEP" ]; then
        say "this machine stays on, as it was told, and costs money"
    else
        shutdown -h "$1" "trainer has ended; 'shutdown -c' keeps the machine on"
    fi
}

install_itself() {
    install -D -m 700 "$0" "$PROGRAM"
    cat >/etc/systemd/system/trainer-machine.service <<UNIT
[Unit]
Description=What trainer does on this machine
Wants=network-online.target
After=network-online.target docker.service dlami-nvme.service

[Service]
ExecStart=$PROGRAM run
# It ends well whatever the run does: what fails was killed.
Restart=on-failure
RestartSec=30

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --now --no-block trainer-machine.service
}

renew() { # while the machine was stopped, `trainer cloud up` may have changed what it is told
    local told=$STATE/user-data
    metadata user-data >"$told" && grep -qx "PROGRAM=$PROGRAM" "$told" && ! cmp -s "$told" "$PROGRAM" || return 0
    install -m 700 "$told" "$PROGRAM"
    exec "$PROGRAM" run
}

main() {
    case ${1-} in
        '') install_itself ;;
        run)
            mkdir -p "$STATE/starts"
            renew
            run
            ;;
        *) "$1" ;;
    esac
}
