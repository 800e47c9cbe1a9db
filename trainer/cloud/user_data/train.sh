# shellcheck shell=bash
# A GPU machine: the data set of the volume, on instance NVMe where it fits, the stack of compose.yaml, and the trainer.
# Follows machine.sh. Wants Docker with Compose and NVIDIA's Container Toolkit, as AWS's Deep Learning AMIs have them.

NVME=/mnt/trainer-nvme

run() {
    report preparing
    if ! attempt prepare; then
        report failed "$(why)"
        power_off +2
        return
    fi
    cd "$CHECKOUT" || return
    wait_for_the_trainer
    ended
}

prepare() {
    docker info >/dev/null
    checkout "$REVISION"
    ./scripts/setup --no-build
    # After a boot, Docker has started it again without its data.
    [ -z "$DEVICE" ] || mountpoint -q "$VOLUME" || docker compose stop trainer
    local data=''
    if [ "$DEVICE" ]; then
        mount_volume
        data=$(find "$VOLUME" -maxdepth 3 -name dataset.json -printf '%h\n' -quit)
        [ "$data" ] || fail "the volume $DEVICE holds no data set: dataset.json is missing; trainer prepare writes it"
    fi
    local near=$data
    if [ "$data" ] && [ "$COPY" ] && mount_nvme && fits "$data"; then near=$NVME/data; fi
    write_env "$near"
    local built
    built=$STATE/built-$(git rev-parse HEAD)
    [ -e "$built" ] || { ./scripts/setup && touch "$built"; } # builds the images
    if [ "$near" != "$data" ]; then
        copy "$data" "$near"
    elif [ "$data" ]; then
        warm "$data"
    fi
    docker compose up --detach --no-build trainer || {
        rm -f "$built" # somebody may have removed the images
        return 1
    }
}

mount_volume() { # read-only, as it came from its snapshot
    mountpoint -q "$VOLUME" && return
    local disk part
    disk=$(wait_for_volume)
    for part in $(lsblk -nrpo NAME "$disk"); do # its partitions come after the disk
        [ -n "$(blkid -o value -s TYPE "$part")" ] || continue
        mkdir -p "$VOLUME"
        mount -o ro "$part" "$VOLUME"
        return
    done
    fail "the volume $DEVICE has no file system; ./scripts/cloud data fills one"
}

# Empty after each stop. Docker stays on the root volume, for its volumes hold MLflow's database and the runs.
mount_nvme() { # mounts the instance store; fails if there is none
    if mountpoint -q /opt/dlami/nvme; then # AWS's images put all of it there
        mkdir -p /opt/dlami/nvme/trainer "$NVME"
        mountpoint -q "$NVME" || mount --bind /opt/dlami/nvme/trainer "$NVME"
    fi
    mountpoint -q "$NVME" && return
    local disk='' name model
    while read -r name model; do
        # Blank, or ours from before a reboot: what is somebody else's is not touched.
        if [ "$model" = 'Amazon EC2 NVMe Instance Storage' ] &&
            { [ -z "$(wipefs "$name")" ] || [ "$(blkid -o value -s LABEL "$name")" = trainer-nvme ]; }; then
            disk=$name
            break
        fi
    done < <(lsblk -dnpo NAME,MODEL)
    [ "$disk" ] || return
    mkdir -p "$NVME"
    [ -n "$(wipefs "$disk")" ] || mkfs.ext4 -q -m 0 -L trainer-nvme "$disk"
    mount "$disk" "$NVME"
}

fits() { # fits DATA: whether the instance store has room for it, or has a copy already
    [ -d "$NVME/data" ] && return
    [ "$(df --output=used -B1 "$1" | tail -n 1)" -lt "$(df --output=avail -B1 "$NVME" | tail -n 1)" ]
}

copy() { # copy FROM TO: `trainer fetch` is parallel, compares every image, and goes on where it was
    mkdir -p "$2"
    chown --reference=export "$2"
    [ -e "$2/dataset.json" ] || docker compose run --rm --no-deps -T --volume "$1:/from:ro" --volume "$2:/to" \
        --entrypoint /app/entrypoint prepare fetch /from --out /to --workers 16
}

warm() { # warm DATA: blocks of a volume come from its snapshot as they are first read, slowly; once is enough
    local mark
    mark=$STATE/warm-$(findmnt -no UUID "$VOLUME")
    [ -e "$mark" ] || (
        find "$1" -type f -print0 | nice ionice -c 3 xargs -0 -P 16 -n 256 cat && touch "$mark"
    ) >/dev/null 2>&1 &
}

write_env() { # write_env DATA: our settings behind those of ./scripts/setup; the last of a name counts
    (
        umask 077
        {
            sed '/^# trainer cloud:/,$d' .env
            echo '# trainer cloud: from here on, written anew at each boot'
            [ -z "$1" ] || echo "DATA_DIR='$1'"
            [ "${#ENVIRONMENT[@]}" = 0 ] || printf '%s\n' "${ENVIRONMENT[@]}"
            secrets "$SECRETS"
        } >.env.new
        mv .env.new .env
    )
}

progress() { # epoch, epochs and top1 of the last line that an evaluation left
    docker compose logs --no-log-prefix --tail 1000 trainer 2>/dev/null |
        sed -n 's|.*epoch \([0-9]*\)/\([0-9]*\) .*top-1 \([0-9.]*\)%.*|\1 \2 \3|p' | tail -n 1 |
        awk 'NF { printf "epoch=%d epochs=%d top1=%.4f", $1, $2, $3 / 100 }'
}

# A container that somebody recreates or restarts is away for some seconds; one that crashed is started again by Docker.
wait_for_the_trainer() {
    local away=0 said='' now silent=0
    while [ "$away" -lt 4 ]; do
        case $(docker compose ps --all --format '{{.State}}' trainer 2>/dev/null) in
            running | restarting | created | paused) away=0 ;;
            *) away=$((away + 1)) ;;
        esac
        now=$(progress)
        silent=$((silent + 1))
        if [ "$now" != "$said" ] || [ "$silent" = 1 ] || [ "$silent" = 20 ]; then # five minutes
            report training "$now"
            said=$now silent=1
        fi
        sleep 15
    done
}

ended() { # by the trainer's exit code: docs/commands.md
    local code last
    code=$(docker compose ps --all --format '{{.ExitCode}}' trainer) || code=''
    last=$(docker compose logs --no-log-prefix --tail 1 trainer 2>&1 | tail -n 1) || last=''
    case $code:$last in
        0:*) report finished "$(progress)" ;;
        75:* | 2:*' is all that '*' allows'*) # Docker starts again what has stopped, and its spent budget refuses that
            # On a spot notice, AWS stops this machine itself, and starts it again; one that stopped itself would stay off.
            ! metadata meta-data/spot/instance-action >/dev/null || return 0
            report stopped "$(progress) reason=all is saved; ./scripts/cloud up goes on, with a larger budget if that is spent"
            ;;
        *) report failed "reason=exit $code: $last" ;;
    esac
    power_off +2
}

main "$@"
